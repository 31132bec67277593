"""Ranks: processes that a launcher started and that share work; alone, one process is all of them."""

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from expunge.core.checks import ExpungeError
from expunge.core.progress import local_rank, processes

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")

LONGEST_WAIT = timedelta(hours=2)
"""How long ranks wait for each other. A rank that has ended is noticed by its launcher, at once."""


@dataclass(frozen=True)
class Share:
    """One rank's part of work that ranks divide among them; what they found is put together again."""

    rank: int = 0
    ranks: int = 1

    def mine(self, parts: Sequence[T]) -> Sequence[T]:
        """The parts of the work that are this rank's."""
        return parts[self.rank :: self.ranks]

    def gathered(self, found: Mapping[K, V]) -> dict[K, V]:
        """What all ranks found together, the same on each."""
        if self.ranks == 1:
            return dict(found)
        gathered: list[dict[K, V]] = [{} for _ in range(self.ranks)]
        dist.all_gather_object(gathered, dict(found))
        return {key: value for one in gathered for key, value in one.items()}

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place, the same bits on each; exact where all but one rank hold zeros."""
        if self.ranks > 1:
            across = tensor if f"{tensor.device.type}:" in dist.get_backend_config() else tensor.cuda()
            dist.all_reduce(across)
            if across is not tensor:
                tensor.copy_(across)
        return tensor

    def all(self, true: bool) -> bool:
        """Is it true on every rank?"""
        return all(self.gathered({self.rank: true}).values())


ALONE = Share()
"""The share of one process."""


def share_of(model: nn.Module) -> Share:
    """This rank's part; all of the work where each rank must do it.

    A model whose parameters are sharded needs every rank in every forward pass, so there the ranks go through the same
    batches together.
    """
    return ALONE if sharded(model) else ranks()


def ranks() -> Share:
    """This rank among all, whatever the model."""
    return Share(dist.get_rank(), dist.get_world_size()) if grouped() else ALONE


def sharded(model: nn.Module) -> bool:
    """Do the ranks hold a part of each parameter, so that all must come to every forward pass?"""
    return any(isinstance(p, DTensor) for p in model.parameters())


def grouped() -> bool:
    """Is this one of several processes?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def join() -> None:
    """Join the processes that a launcher started, where it started several; a second time does nothing.

    Each takes the GPU of its number; without GPUs they exchange through gloo.
    """
    if processes() == 1 or dist.is_initialized():
        return
    gpus = 0 if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") else torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(local_rank() % gpus)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=LONGEST_WAIT)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def is_main() -> bool:
    """Is this the process that writes files?"""
    return not grouped() or dist.get_rank() == 0


def from_main(ask: Callable[[], T]) -> T:
    """What the main process finds, on every rank: the others may see another disk, or the same one later.

    Raises:
        ExpungeError: the main process did, and so do all.
    """
    if not grouped():
        return ask()
    told: list[tuple[T | None, ExpungeError | None]] = [(None, None)]
    if is_main():
        try:
            told = [(ask(), None)]
        except ExpungeError as error:
            told = [(None, error)]
    dist.broadcast_object_list(told)
    found, refused = told[0]
    if refused is not None:
        raise refused
    return found  # type: ignore[return-value]


def barrier() -> None:
    """Wait until every rank has come here."""
    if grouped():
        dist.barrier()
