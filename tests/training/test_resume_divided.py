"""A run with divided weights that is cut off goes on to the same bits; checkpoints serve any number of processes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import expunge
import zoo
from expunge.masks.mask import Mask
from launched import run_ranks
from made_masks import made_mask

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.slow]  # one pair of processes serves all

SCRIPT = Path(__file__).with_name("resume_run.py")
CUT = 3
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "dtype": "float64",
    "checkpoint_every": 1 / 3,
    "keep_checkpoints": 0,
}
"""Six steps, with a checkpoint after each but the last."""
CASES: dict[str, dict[str, Any]] = {
    "npo": {"method": "npo"},
    "filled up": {"method": "grad_diff", "batch_size": 3, "checkpoint_every": 1 / 2, "epochs": 2.5},
    "pdu": {"method": "pdu", "eps": 1.0, "dual_step": 0.5, "dual_warmup": 0.5, "alpha": 2.0},
    "gru": {"method": "grad_diff", "surgery": "gru"},
    "undo": {"method": "undo", "noise": 1.0},
    "rmu": {"method": "rmu", "layer": 1},
    "masked weights": {"method": "npo", "unit": "weight"},
    "masked neurons": {"method": "grad_diff", "unit": "neuron"},
    "masked matrices in 16 bits": {"method": "grad_diff", "unit": "matrix", "dtype": "bfloat16"},
}


class Killed(Exception):
    """Stands for kill -9."""


def killed(what: str, done: int, total: int, text: str) -> None:
    if total > CUT and done == CUT and what != "reference":
        raise Killed


def alone(folder: Path, case: str, *, cut: bool = False, **how: Any) -> expunge.Run:
    """The run of a case in this process."""
    settings = {k: v for k, v in {**SETTINGS, **CASES[case], **how}.items() if k not in ("unit", "dtype")}
    if "unit" in CASES[case]:
        settings["mask"] = Mask.load(folder / "mask.safetensors")
    model = zoo.tiny_model().to(getattr(torch, {**SETTINGS, **CASES[case]}["dtype"]))
    return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), progress=killed if cut else None, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all cases, one after another: a folder each."""
    folder = tmp_path_factory.mktemp("resumed")
    cases = {}
    for name, how in CASES.items():
        settings = {**SETTINGS, **how}
        start = zoo.tiny_model().to(getattr(torch, settings["dtype"]))
        start.save_pretrained(folder / name / "start")
        if "unit" in settings:
            mask = made_mask(start, settings.pop("unit"), "layers")
            settings["mask"] = str(mask.save(folder / name / "mask.safetensors"))
        cases[name] = settings
        with pytest.raises(Killed):
            alone(folder / name, name, cut=True, output_dir=folder / name / "of one")
    done = run_ranks(str(SCRIPT), str(folder), json.dumps(cases))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_same_number_of_processes_ends_with_the_same_bits(name: str, folder: Path) -> None:
    here = folder / name
    for rank in (0, 1):
        before, after = (load_file(here / f"{run}.{rank}.safetensors") for run in ("undisturbed", "resumed"))
        start = zoo.tiny_model().state_dict()
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[key], start[key].to(before[key])) for key in before)
        for key, weight in before.items():
            assert torch.equal(after[key], weight), f"{key}, rank {rank}"
        histories = [json.loads((here / f"{run}.{rank}.json").read_text()) for run in ("undisturbed", "resumed")]
        assert histories[0] == histories[1] and len(histories[0]) > CUT
        moments = json.loads((here / f"moments.{rank}.json").read_text())
        assert moments == ["DTensor" if "unit" not in CASES[name] else "Tensor"] * 2
