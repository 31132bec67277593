"""`expunge sweep`: the study file with its lines, the dry run, workers, and what is shown of a study."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.cli.verb import DRY_RUN

pytest.importorskip("optuna")

STUDY = """\
settings:
  model: {model}
  forget: {data}/forget.jsonl
  retain: {data}/retain.jsonl
  epochs: 1
  batch_size: 3
search:
  method: [npo, grad_diff]
  npo.beta: [0.1, 0.5]
  learning_rate: [1e-4, 1e-2]
  mask: [null, {{attribution: magnitude, ratio: 0.5}}]
study:
  objective: forget_probability
  constraint: retain_probability >= 0.5 of start
"""


@pytest.fixture
def study(model_folder: Path, data: Path, tmp_path: Path) -> Path:
    """A study file of twelve points."""
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(model=model_folder, data=data))
    return path


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(call: Callable[..., Any], study: Path) -> None:
    code, out, err = call("sweep", study, "--dry-run", "budget=2h")
    assert (code, err) == (0, f"{DRY_RUN}\n")
    assert f"{study}, line 13" in out and "command line" in out
    assert "npo.beta       0.1, 0.5" in out
    assert "12 trials; a trial has 2 steps" in out and "24 steps and" in out
    assert "at least, by arithmetic alone" in out and "each worker begins trials for 120 min" in out
    assert "together" in out and "No problem found" in out
    assert [path.name for path in study.parent.iterdir()] == ["study.yaml"]


@pytest.mark.slow
def test_a_study_from_end_to_end(call: Callable[..., Any], study: Path, tmp_path: Path) -> None:
    assert call("sweep", study, "trials=2").code == 0  # as if its time was up
    folder = tmp_path / "study"
    code, out, err = call("sweep", "worker", study, "trials=3", "--output", folder)
    assert code == 0, err
    assert len([*(folder / "trials").iterdir()]) == 3
    assert (
        (folder / "study.json").is_file() and (folder / "parallel.svg").is_file() and (folder / "pareto.png").is_file()
    )
    shown = call("sweep", "show", folder)
    assert shown.code == 0 and shown.out == out
    found = json.loads((folder / "study.json").read_text())
    assert f"best: trial {found['best']['trial']}, {found['best']['model']}" in out
    # The command makes the same weights again.
    command = next(line for line in out.splitlines() if line.startswith("as one run: ")).removeprefix("as one run: ")
    *words, _ = shlex.split(command)
    assert call(*words[1:], f"output={tmp_path}/again").code == 0
    step = found["trials"][found["best"]["trial"]]["step"]
    model = tmp_path / "again" if "its model is" not in out else tmp_path / f"again/checkpoints/checkpoint-{step}"
    assert (model / "model.safetensors").read_bytes() == (
        Path(found["best"]["model"]) / "model.safetensors"
    ).read_bytes()
    report = call("report", folder / "start-records", folder, f"output={tmp_path}/report.html")
    assert report.code == 0 and "trial 2" in report.out and "start model" in report.out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 1", "epochs: one", "epochs must be a number or null; got 'one' (from {}, line 5)"),
        ("1e-2]", "fast]", "learning_rate must be a number or null; got 'fast' (from {}, line 10)"),
        ("1e-2]", "3]", "learning_rate must be between 0 and 1; got 3.0"),
        ("npo.beta", "npo.betta", "no setting is called 'betta' (from {}, line 9). Did you mean 'beta'?"),
        ("grad_diff]", "graddiff]", "no unlearning method is called 'graddiff'. Did you mean 'grad_diff'?"),
        ("ratio: 0.5", "ration: 0.5", "no setting is called 'ration' (from {}, line 11). Did you mean 'ratio'?"),
        ("ratio: 0.5", "ratio: 5", "ratio must be above 0 and at most 1; got 5.0. (from {}, line 11)"),
        ("epochs: 1", "stop: forget_rouge<=0.1", "stop has no place in a study (from {}, line 5)"),
        (
            "learning_rate:",
            "max_length:",
            "max_length has no place in a study (from {}, line 10): a study is about one",
        ),
        ("objective:", "objectve:", "no setting is called 'objectve' (from {}, line 13). Did you mean 'objective'?"),
        ("  objective:", "  output: here\n  objective:", "output has no place in a study (from {}, line 13)"),
        ("forget_probability", "forget_probabilit", "Did you mean 'forget_probability'?"),
        ("search:", "searching:", "no section of a study file is called 'searching' (from {}, line 8)"),
    ],
)
def test_mistakes_name_their_line_and_nothing_is_written(
    call: Callable[..., Any], study: Path, old: str, new: str, message: str
) -> None:
    text = study.read_text()
    assert old in text
    study.write_text(text.replace(old, new, 1))
    code, _, err = call("sweep", study)
    assert code == 2 and message.format(study) in err
    assert [path.name for path in study.parent.iterdir()] == ["study.yaml"]


def test_a_dry_run_collects_problems(call: Callable[..., Any], study: Path) -> None:
    code, out, _ = call("sweep", study, "--dry-run", "objective=recovery")
    assert code == 1 and "the study names none: control=" in out


def test_what_is_missing_is_told(call: Callable[..., Any], tmp_path: Path) -> None:
    assert "no study file at 'nowhere.yaml'" in call("sweep", "nowhere.yaml").err
    assert "missing: study" in call("sweep").err
    assert "name the folder of one study" in call("sweep", "show").err
    assert "it holds no asked.json" in call("sweep", "show", tmp_path).err


def test_help_lists_the_settings_of_a_study(call: Callable[..., Any]) -> None:
    out = call("sweep", "--help").out
    assert "constraint" in out and "expunge sweep show FOLDER" in out and "--dry-run" in out
