"""Which rows meet in which step: a function of seed, epoch and position, so that every process sees the same pairs."""

import zlib
from functools import lru_cache
from typing import TypedDict

import numpy as np
from torch.utils.data import Dataset

from expunge.core.checks import ExpungeError, require_at_least

# Streams of random numbers that must not be the same although seed and epoch are.
_FORGET, _RETAIN, _ALTERNATE, _NAMED = 0, 1, 2, 3


@lru_cache(maxsize=32)
def _permutation(n: int, seed: int, lap: int, stream: int) -> np.ndarray:
    return np.random.default_rng([seed, lap, stream]).permutation(n)


def forget_row(position: int, *, n_forget: int, seed: int, epoch: int) -> int:
    """The forget row at a position of an epoch's order: every row once an epoch."""
    return int(_permutation(n_forget, seed, epoch, _FORGET)[position])


def retain_rows(k: int, *, n_retain: int, per_forget: int, seed: int, name: str = "retain") -> list[int]:
    """The rows of a retain set that go with pair k of a run: all are used once before any is used again, across epochs.

    Sets of different names are drawn in different orders.
    """
    stream = _RETAIN if name == "retain" else _NAMED + zlib.crc32(name.encode())
    draws = (divmod(k * per_forget + j, n_retain) for j in range(per_forget))
    return [int(_permutation(n_retain, seed, lap, stream)[at]) for lap, at in draws]


def alternate_choice(row: int, *, n_alternates: int, seed: int, epoch: int) -> int:
    """Which of its alternate answers an example gets in an epoch."""
    return int(np.random.default_rng([seed, epoch, _ALTERNATE, row]).integers(n_alternates))


class Pair(TypedDict):
    """Row numbers that meet in one item."""

    forget: int
    retain: list[int]
    epoch: int
    """The pass over the forget set that the item belongs to, from 0."""


class Pairs(Dataset[Pair]):
    """All pairs of a run in order, as row numbers: item k belongs to epoch k // n_forget.

    The epochs are laid end to end, so steps of a fixed size run through without a short one at each epoch's end; every
    row still comes exactly once in each epoch. Retain rows run through the whole set before any comes again, so that a
    large retain set is seen as widely as the run is long. An item depends on seed and k alone, never on process, worker
    or world size, and a resumed run continues with the item that a run that was not killed would have used.
    """

    def __init__(self, *, n_forget: int, n_retain: int, per_forget: int, epochs: float, seed: int) -> None:
        """Lay out the run.

        Args:
            n_forget: rows of the anchor set.
            n_retain: rows of the retain set; 0 for none.
            per_forget: retain rows for each anchor row.
            epochs: passes over the anchor set; a fraction ends within an epoch.
            seed: of order and pairing.
        """
        require_at_least("retain rows per forget row", per_forget, 1)
        self.n_forget, self.n_retain, self.per_forget, self.seed = n_forget, n_retain, per_forget, seed
        self.length = round(n_forget * epochs)
        if self.length < 1:
            raise ExpungeError(f"epochs={epochs} of {n_forget} rows is less than one row.")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> Pair:
        """Row numbers of pair k."""
        k = range(self.length)[k]
        epoch, position = divmod(k, self.n_forget)
        forget = forget_row(position, n_forget=self.n_forget, seed=self.seed, epoch=epoch)
        retain: list[int] = []
        if self.n_retain:
            retain = retain_rows(k, n_retain=self.n_retain, per_forget=self.per_forget, seed=self.seed)
        return {"forget": forget, "retain": retain, "epoch": epoch}
