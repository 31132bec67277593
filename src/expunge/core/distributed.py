"""Ranks: processes that share a collection's sequences, when a process group is there."""

from collections.abc import Mapping
from typing import TypeVar

import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

K = TypeVar("K")
V = TypeVar("V")


def share_of(model: nn.Module) -> tuple[int, int]:
    """(this rank, ranks that share the work); (0, 1) where each must do all of it.

    A model whose parameters are sharded needs every rank in every forward pass, so there the ranks go through the same
    batches together.
    """
    return (dist.get_rank(), dist.get_world_size()) if grouped() and not sharded(model) else (0, 1)


def sharded(model: nn.Module) -> bool:
    """Do the ranks hold a part of each parameter, so that all must come to every forward pass?"""
    return any(isinstance(p, DTensor) for p in model.parameters())


def grouped() -> bool:
    """Is this one of several processes?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main() -> bool:
    """Is this the process that writes files?"""
    return not grouped() or dist.get_rank() == 0


def gather(found: Mapping[K, V], ranks: int) -> dict[K, V]:
    """What all ranks found together, the same on each."""
    if ranks == 1:
        return dict(found)
    gathered: list[dict[K, V]] = [{} for _ in range(ranks)]
    dist.all_gather_object(gathered, dict(found))
    return {key: value for one in gathered for key, value in one.items()}


def barrier() -> None:
    """Wait until every rank has come here."""
    if grouped():
        dist.barrier()
