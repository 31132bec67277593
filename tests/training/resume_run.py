"""Runs in a process group that are resumed, one after another, started by test_resume_divided."""

import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

import expunge
import expunge.training.trainer
import zoo
from expunge.training.stopping import NoValue

RESUMED: list[str] = []
"""What the moments of each resumed run were, in one word."""


def left_by_a_kill(run: Path, copy: Path, step: int) -> Callable[[str, int, int, str], None]:
    """Told the progress of a run, copies its folder as it is in the midst of a step: what a kill would leave."""

    def keep(what: str, done: int, total: int, text: str) -> None:
        if done == step and total > step and what != "reference" and int(os.environ.get("RANK", 0)) == 0:
            shutil.copytree(run, copy)

    return keep


def note_moments(optimizer: Any, folder: Path) -> None:
    read_optimizer(optimizer, folder)
    state = optimizer.state_dict()["state"].values()
    RESUMED.append(",".join({type(values["exp_avg"]).__name__ for values in state}))


def look(model: nn.Module, step: int) -> None:
    """A rule that never stops a run; its forward pass leaves weights whole, and a checkpoint comes right after it."""
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 17, 40, 3]]))


def fail(model: nn.Module, step: int) -> None:
    raise NoValue("a measure has no value.")


def interrupt(what: str, done: int, total: int, text: str) -> None:
    """Ctrl-C in the second step, to the second process alone."""
    if what == "npo" and done == 2 and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGINT)


def run(folder: Path, name: str, *, dtype: str, looks: bool = False, **how: Any) -> None:
    """Unlearn; leave this rank's weights, whole, and history under a name in the folder that holds the start model."""
    model = AutoModelForCausalLM.from_pretrained(
        folder / "start", dtype=getattr(torch, dtype), distributed_config=DistributedConfig(fsdp_size=2)
    )
    assert all(isinstance(p, DTensor) for p in model.parameters()), "the model is not sharded"
    if looks:
        how["stop"] = look
    done = expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), output_dir=folder / name, **how)
    whole = {key: p.full_tensor().detach().clone().contiguous() for key, p in done.model.named_parameters()}  # type: ignore[attr-defined]
    save_file(whole, folder / f"{name}.{dist.get_rank()}.safetensors")
    (folder / f"{name}.{dist.get_rank()}.json").write_text(json.dumps(done.history))


def resume(folder: Path, *, step: int, **how: Any) -> None:
    """An undisturbed run, and from what a kill in the midst of a step would have left of it the run that goes on."""
    os.environ["EXPUNGE_CACHE"] = str(folder / "cache")  # reference values are computed, not read
    RESUMED.clear()
    run(folder, "undisturbed", progress=left_by_a_kill(folder / "undisturbed", folder / "resumed", step), **how)
    if dist.get_rank() == 0:
        shutil.copytree(folder / "resumed", folder / "for one")
    dist.barrier()
    for name in ("resumed", "of one"):
        if (folder / name).is_dir():
            run(folder, name, resume=True, **how)
    if (folder / "of one").is_dir() and "mask" not in how:
        try:
            run(folder, "interrupted", progress=interrupt, **{**how, "checkpoint_every": 0})
        except KeyboardInterrupt as stopped:
            (folder / f"interrupted.{dist.get_rank()}.txt").write_text(str(stopped))
        try:
            run(folder, "failed", **{**how, "checkpoint_every": 0, "epochs": 1, "stop": fail})
        except NoValue as failed:
            (folder / f"failed.{dist.get_rank()}.txt").write_text(str(failed))
    (folder / f"moments.{dist.get_rank()}.json").write_text(json.dumps(RESUMED))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    read_optimizer = expunge.training.trainer.read_optimizer
    expunge.training.trainer.read_optimizer = note_moments  # type: ignore[attr-defined]
    for case, how in json.loads(sys.argv[2]).items():
        resume(Path(sys.argv[1]) / case, **how)
        print(case, flush=True)
    dist.destroy_process_group()
