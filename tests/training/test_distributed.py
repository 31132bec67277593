"""Two processes make the update that one makes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import expunge
import zoo
from expunge.core.layout import Unit
from expunge.training.run import read_history
from made_masks import made_mask

SCRIPT = Path(__file__).with_name("distributed_run.py")
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0, "dtype": "float64"}
"""In float64, as AdamW's first steps turn a rounding error in a gradient near 0 into a step of full size."""


def launched(how: dict[str, Any], folder: Path, processes: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc-per-node={processes}", str(SCRIPT), json.dumps(how), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def alone(how: dict[str, Any]) -> expunge.Run:
    settings = dict(how)
    model = zoo.tiny_model().to(getattr(torch, settings.pop("dtype")))
    return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), **settings)


def same(folder: Path, run: expunge.Run) -> None:
    for rank in (0, 1):
        ours = load_file(folder / f"rank{rank}.safetensors")
        for name, parameter in run.model.named_parameters():
            torch.testing.assert_close(
                ours[name], parameter.detach(), rtol=1e-9, atol=1e-12, msg=f"{name}, rank {rank}"
            )
        history = json.loads((folder / f"history{rank}.json").read_text())
        for before, after in zip(run.history, history, strict=True):
            assert before.keys() == after.keys()
            assert after["loss"] == pytest.approx(before["loss"], rel=1e-9)
            assert after["gradient_norm"] == pytest.approx(before["gradient_norm"], rel=1e-9)
            assert after["forget_tokens"] == before["forget_tokens"]


@pytest.mark.parametrize(
    "how",
    [
        {"method": "npo"},
        {"method": "grad_diff", "epochs": 1.5, "batch_size": 4},
        {"method": "grad_diff", "micro_batch_size": 1},
        {"method": "grad_diff", "surgery": "gru"},
        {"method": "grad_diff", "surgery": "gru", "micro_batch_size": 1},
        {"method": "pdu", "eps": 1.0, "dual_step": 0.5, "dual_warmup": 0.5, "alpha": 2.0},
    ],
    ids=lambda how: "-".join(str(v) for v in how.values()),
)
def test_two_processes_and_one_make_the_same_update(how: dict[str, Any], tmp_path: Path) -> None:
    settings = {**SETTINGS, **how}
    launched(settings, tmp_path)
    same(tmp_path, alone({k: v for k, v in settings.items() if k != "micro_batch_size"}))


def test_sharded_over_two_processes(tmp_path: Path) -> None:
    zoo.tiny_model().double().save_pretrained(tmp_path / "start")
    settings = {**SETTINGS, "method": "grad_diff"}
    launched({**settings, "sharded": True, "model": str(tmp_path / "start")}, tmp_path)
    same(tmp_path, alone(settings))


@pytest.mark.parametrize(
    ("method", "unit", "sharded"),
    [
        ("grad_diff", "weight", False),
        ("grad_diff", "neuron", True),
        ("npo", "weight", True),  # its reference is a forward pass before training
    ],
)
def test_a_mask_over_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, unit: Unit, sharded: bool
) -> None:
    """The update that one process makes, and not a bit outside, replicated and sharded."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))  # reference values are computed, not read
    start = zoo.tiny_model().double()
    start.save_pretrained(tmp_path / "start")
    mask = made_mask(start, unit, "layers")
    settings = {"method": method, **SETTINGS, "mask": str(mask.save(tmp_path / "mask.safetensors"))}
    launched({**settings, "sharded": sharded, "model": str(tmp_path / "start")}, tmp_path)
    same(tmp_path, alone(settings))
    ours = load_file(tmp_path / "rank1.safetensors")
    for name, before in start.named_parameters():
        inside = mask.dense(name) if name in mask.layout.parts else torch.zeros_like(before, dtype=torch.bool)
        assert torch.equal(ours[name][~inside], before[~inside]), name
        assert not inside.any() or not torch.equal(ours[name], before), name


def test_the_command_line_over_two_processes_writes_one_run(tmp_path: Path) -> None:
    zoo.tiny_model().save_pretrained(tmp_path / "start")
    zoo.tokenizer().save_pretrained(tmp_path / "start")
    for split in ("forget", "retain"):
        rows = [{"question": e.prompt, "answer": e.completion} for e in zoo.corpus()[split]]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    words = ["model=start", "forget=forget.json", "retain=retain.json", "method=npo", "epochs=2", "batch_size=4"]
    histories = []
    for launcher in (["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"], ["-m"]):
        output = f"runs/{len(launcher)}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *launcher, "expunge", "unlearn", *words, f"output={output}"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("unlearned with npo") == 1
        histories.append(read_history(tmp_path / output / "history.csv"))
    assert [row["loss"] for row in histories[0]] == pytest.approx([row["loss"] for row in histories[1]], rel=1e-4)
