"""Trackers get the history's rows, and change nothing of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.training.training_config import TrainingConfig

SETTINGS: dict[str, Any] = {"method": "npo", "epochs": 4, "batch_size": 3, "learning_rate": 1e-3}

TRACKIO = """
import json, sys
from pathlib import Path
import expunge, zoo
from expunge.training.training_config import TrainingConfig
from trackio.sqlite_storage import SQLiteStorage

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
def killed(what, done, total, text):
    if what == "npo" and done == 5:
        raise RuntimeError("killed")
def run(**more):
    return expunge.unlearn(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), output_dir=folder, report_to="trackio", **settings, **more
    )
try:
    run(progress=killed)
except RuntimeError:
    pass
try:
    TrainingConfig(report_to=["tensorboard", "mlflow"])  # here, since types are checked in the tests' own process
except expunge.ExpungeError as error:
    refusal = str(error)
names = SQLiteStorage.get_runs("expunge")
before = SQLiteStorage.get_logs("expunge", names[0])
history = run(resume=True).history
assert SQLiteStorage.get_runs("expunge") == names
print(json.dumps([names, before, SQLiteStorage.get_logs("expunge", names[0]), history, refusal]))
"""


def unlearn(folder: Path | None, **changes: Any) -> expunge.Run:
    return expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), output_dir=folder, **(SETTINGS | changes))


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """By name and step, what TensorBoard shows of a folder."""
    found = EventAccumulator(str(folder)).Reload()
    return {name: {e.step: e.value for e in found.Scalars(name)} for name in found.Tags()["scalars"]}


def killed_after(step: int) -> Any:
    def progress(what: str, done: int, total: int, text: str) -> None:
        if what == "npo" and done == step:
            raise RuntimeError("killed")

    return progress


def test_tensorboard_shows_the_history_of_a_run_that_was_killed_and_resumed(tmp_path: Path) -> None:
    plain, run = unlearn(tmp_path / "plain"), tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        unlearn(run, report_to=("tensorboard",), progress=killed_after(5))
    assert len(scalars(run / "tracking")["train/loss"]) == 5
    resumed = unlearn(run, report_to=("tensorboard",), resume=True)
    assert resumed.history == plain.history
    assert all(map(torch.equal, resumed.model.parameters(), plain.model.parameters()))
    shown = scalars(run / "tracking")
    for name in plain.history[0].keys() - {"step"}:
        expected = {int(row["step"]): row[name] for row in plain.history}
        assert {k: v for k, v in shown[f"train/{name}"].items() if k in expected} == pytest.approx(expected), name
    assert len(shown["train/loss"]) == 8
    assert not (tmp_path / "plain/tracking").exists()


@pytest.mark.slow
def test_trackio_has_the_history_in_its_local_store_and_a_resumed_run_is_appended(tmp_path: Path) -> None:
    # In a process of its own: trackio reads where its store is when it is imported.
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO, str(tmp_path / "run"), json.dumps(SETTINGS)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    names, before, after, history, refusal = json.loads(done.stdout.splitlines()[-1])
    assert refusal == "report_to must name tensorboard, trackio or wandb; got 'mlflow'."
    assert names == [(tmp_path / "run/tracking/run_name.txt").read_text().strip()]
    rows = [row for row in after if "train/loss" in row]
    assert rows[: len(before)] == before  # appended, nothing replaced
    assert [row["train/global_step"] for row in before] == [1, 2, 3, 4, 5]
    last = {row["train/global_step"]: row for row in rows}
    for row in history:
        shown = {name: last[row["step"]][f"train/{name}"] for name in row if name != "step"}
        assert shown == pytest.approx({name: value for name, value in row.items() if name != "step"})
    assert [row["train/global_step"] for row in rows[len(before) :]][-1] == len(history)


def test_a_tracker_needs_a_folder_and_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="report_to=tensorboard keeps files in the run folder"):
        unlearn(None, report_to=("tensorboard",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExpungeError, match="report_to=wandb needs wandb, which is not installed: pip install wandb"):
        TrainingConfig(report_to=("wandb",))


def test_a_folder_called_wandb_is_not_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ExpungeError, match="pip install wandb"):
        TrainingConfig(report_to=("wandb",))
