"""Two processes make the update that one makes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import expunge
import zoo
from expunge.masks.mask import Mask
from expunge.training.run import read_history
from made_masks import made_mask

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.slow]  # one pair of processes serves all

SCRIPT = Path(__file__).with_name("distributed_run.py")
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0, "dtype": "float64"}
"""In float64, as AdamW's first steps turn a rounding error in a gradient near 0 into a step of full size."""


CASES: dict[str, dict[str, Any]] = {
    "npo": {"method": "npo"},
    "short last step": {"method": "grad_diff", "epochs": 1.5},
    "micro-batches": {"method": "grad_diff", "micro_batch_size": 1},
    "gru": {"method": "grad_diff", "surgery": "gru"},
    "gru, sharded": {"method": "grad_diff", "surgery": "gru", "sharded": True},
    "gru, micro-batches": {"method": "grad_diff", "surgery": "gru", "micro_batch_size": 1},
    "pdu": {"method": "pdu", "eps": 1.0, "dual_step": 0.5, "dual_warmup": 0.5, "alpha": 2.0},
    "sharded": {"method": "grad_diff", "sharded": True},
    # Five rows do not divide among two: each step is filled up with one that weighs nothing.
    "filled up": {"method": "npo", "batch_size": 5},
    "filled up, sharded": {"method": "simnpo", "batch_size": 3, "sharded": True},
    # One of each kind: alternates, logits, hidden states of a layer, token weights, a reference's distribution.
    "dpo": {"method": "dpo", "batch_size": 2, "micro_batch_size": 1, "gradient_checkpointing": True},
    "undial, sharded": {"method": "undial", "sharded": True, "gradient_checkpointing": True},
    "undo": {"method": "undo", "noise": 1.0},
    "undo, sharded": {"method": "undo", "noise": 1.0, "sharded": True},
    "rmu": {"method": "rmu", "layer": 1, "micro_batch_size": 1},
    "rmu, sharded": {"method": "rmu", "layer": 1, "sharded": True},
    "wga with kl": {"method": "wga", "retain": "kl"},
    "kl, sharded": {"method": "grad_diff", "retain": "kl", "sharded": True},
}
MASKED: dict[str, dict[str, Any]] = {
    "weights": {"method": "grad_diff", "unit": "weight"},
    "neurons, sharded": {"method": "grad_diff", "unit": "neuron", "sharded": True},
    "weights, sharded": {"method": "npo", "unit": "weight", "sharded": True},  # a forward pass before training
}

_ADAPTER = {"method": "npo", "rank": 4, "learning_rate": 1e-2, "micro_batch_size": 1, "save": "both"}
ADAPTED: dict[str, dict[str, Any]] = {
    "lora": {**_ADAPTER, "adapter": "lora"},
    "fila": {**_ADAPTER, "adapter": "fila", "epsilon": "auto"},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As each of the processes has: sums in another order turn up, enlarged, in FILA's factors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all cases, one after another: a folder each."""
    folder = tmp_path_factory.mktemp("distributed")
    cases = {}
    for name, how in {**CASES, **MASKED, **ADAPTED}.items():
        start, settings = zoo.tiny_model().double(), {**SETTINGS, **how}
        start.save_pretrained(folder / name / "start")
        if name in MASKED:
            mask = made_mask(start, settings.pop("unit"), "layers")
            settings["mask"] = str(mask.save(folder / name / "mask.safetensors"))
        if name in ADAPTED:
            settings["output_dir"] = str(folder / name / "run")
        cases[name] = settings
    paths = [str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), json.dumps(cases)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


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
            assert after.get("forget_tokens") == before.get("forget_tokens")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_and_one_make_the_same_update(name: str, folder: Path) -> None:
    inert = ("micro_batch_size", "sharded", "gradient_checkpointing")
    same(folder / name, alone({k: v for k, v in {**SETTINGS, **CASES[name]}.items() if k not in inert}))


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_over_two_processes(name: str, folder: Path) -> None:
    """Both end with the weights of one process, merged, and one of them writes the adapter."""
    run = alone({k: v for k, v in {**SETTINGS, **ADAPTED[name]}.items() if k not in ("micro_batch_size", "save")})
    same(folder / name, run)
    start = zoo.tiny_model().double().state_dict()
    assert sum(not torch.equal(p, start[key]) for key, p in run.model.named_parameters()) == 21
    loaded = expunge.load_adapter(zoo.tiny_model().double(), folder / name / "run/adapter")
    ids = torch.tensor([[1, 17, 40, 3]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, run.model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_over_two_processes(name: str, folder: Path) -> None:
    """The update that one process makes, and not a bit outside, replicated and sharded."""
    mask = Mask.load(folder / name / "mask.safetensors")
    same(folder / name, alone({**SETTINGS, "method": MASKED[name]["method"], "mask": mask}))
    ours = load_file(folder / name / "rank1.safetensors")
    for key, before in zoo.tiny_model().double().named_parameters():
        inside = mask.dense(key) if key in mask.layout.parts else torch.zeros_like(before, dtype=torch.bool)
        assert torch.equal(ours[key][~inside], before[~inside]), key
        assert not inside.any() or not torch.equal(ours[key], before), key


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
