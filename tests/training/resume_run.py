"""Runs in a process group that are cut off and resumed, one after another, started by test_resume_divided."""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.distributed import DistributedConfig

import expunge
import expunge.training.trainer
import zoo

CUT = 3
"""The step in which runs are cut off."""
RESUMED: list[str] = []
"""What the moments of each resumed run were."""


class Killed(Exception):
    """Stands for kill -9."""


def killed(what: str, done: int, total: int, text: str) -> None:
    if total > CUT and done == CUT and what != "reference":
        raise Killed


def note_moments(optimizer: Any, folder: Path) -> None:
    read_optimizer(optimizer, folder)
    state = optimizer.state_dict()["state"].values()
    RESUMED.append(",".join(sorted({type(values["exp_avg"]).__name__ for values in state})))


def divided(folder: Path, dtype: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), distributed_config=DistributedConfig(fsdp_size=2)
    )
    assert all(isinstance(p, DTensor) for p in model.parameters()), "the model is not sharded"
    return model


def run(folder: Path, name: str, *, dtype: str, **how: Any) -> None:
    """Unlearn; leave this rank's weights, whole, and history under a name in the folder that holds the start model."""
    done = expunge.unlearn(
        divided(folder / "start", dtype), zoo.tokenizer(), zoo.corpus(), output_dir=folder / name, **how
    )
    assert isinstance(next(done.model.parameters()), DTensor)
    rank = torch.distributed.get_rank()
    whole = {key: p.full_tensor().detach().clone().contiguous() for key, p in done.model.named_parameters()}
    save_file(whole, folder / f"{name}.{rank}.safetensors")
    (folder / f"{name}.{rank}.json").write_text(json.dumps(done.history))


def cut(folder: Path, name: str, *, dtype: str, **how: Any) -> None:
    model = divided(folder / "start", dtype)
    try:
        expunge.unlearn(
            model, zoo.tokenizer(), zoo.corpus(), output_dir=folder / name, progress=killed, **how
        )
    except Killed:
        return
    raise AssertionError("the run was not cut off")


warnings.simplefilter("ignore")
torch.set_num_threads(1)
read_optimizer = expunge.training.trainer.read_optimizer
expunge.training.trainer.read_optimizer = note_moments  # type: ignore[attr-defined]
for case, how in json.loads(sys.argv[2]).items():
    place = Path(sys.argv[1]) / case
    os.environ["EXPUNGE_CACHE"] = str(place / "cache")  # reference values are computed, not read
    RESUMED.clear()
    run(place, "undisturbed", **how)
    cut(place, "resumed", **how)
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shutil.copytree(place / "resumed", place / "for one")
    torch.distributed.barrier()
    run(place, "resumed", resume=True, **how)
    if (place / "of one").is_dir():
        run(place, "of one", resume=True, **how)
    (place / f"moments.{torch.distributed.get_rank()}.json").write_text(json.dumps(RESUMED))
torch.distributed.destroy_process_group()
