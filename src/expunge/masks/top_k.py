"""The k largest of very many numbers, exactly, without sorting or joining them: radix selection on the bits of float32.

Numbers are in named pieces that are read in chunks, three times: the upper halves of their bits are counted, then the
lower halves of those in the bin where the k-th one is, then the selection is written. Besides the numbers themselves
this takes a few chunks and one bit a number.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 2**22
"""Numbers read at once; a multiple of 8, so that chunks meet at whole bytes of the selection."""

Floats = NDArray[np.float32]
Read = Callable[[str, int, int], Floats]
"""Numbers [start:stop] of a piece, float32; the same each time."""


def top(sizes: Mapping[str, int], read: Read, k: int) -> dict[str, Tensor]:
    """Select the k largest of all numbers; of equal ones those that come first, by piece, then by index.

    Args:
        sizes: piece -> how many numbers it holds; the order of pieces decides ties.
        read: gives the numbers, all finite.
        k: from 1 to the sum of sizes.

    Returns:
        Piece -> packed selection, uint8 [ceil(n / 8)], lowest bit first.
    """
    assert 1 <= k <= sum(sizes.values())
    value, ties = kth_largest(sizes, read, k)
    selected = {name: np.zeros((n + 7) // 8, np.uint8) for name, n in sizes.items()}
    for name, start, numbers in _chunks(sizes, read):
        chosen = numbers > value
        if ties:
            first = np.flatnonzero(numbers == value)[:ties]
            chosen[first] = True
            ties -= len(first)
        packed = np.packbits(chosen, bitorder="little")
        selected[name][start // 8 : start // 8 + len(packed)] = packed
    return {name: torch.from_numpy(bits) for name, bits in selected.items()}


def kth_largest(sizes: Mapping[str, int], read: Read, k: int) -> tuple[float, int]:
    """The k-th largest number, and how many of those equal to it are among the k largest."""
    upper = np.zeros(2**16, np.int64)
    for _, _, numbers in _chunks(sizes, read):
        upper += np.bincount(_bits(numbers) >> 16, minlength=2**16)
    negative = np.arange(2**15, 2**16)
    positive = np.arange(2**15 - 1, -1, -1)
    order = np.concatenate([positive, negative])  # from large to small: a negative number falls as its bits rise
    place, above = _place(upper[order], k)
    bin_ = int(order[place])
    lower = np.zeros(2**16, np.int64)
    for _, _, numbers in _chunks(sizes, read):
        bits = _bits(numbers)
        lower += np.bincount(bits[(bits >> 16) == bin_] & 0xFFFF, minlength=2**16)
    order = np.arange(2**16) if bin_ >= 2**15 else np.arange(2**16 - 1, -1, -1)
    place, further = _place(lower[order], k - above)
    value = np.array(bin_ << 16 | int(order[place]), np.uint32).view(np.float32)
    return float(value), k - above - further


def _place(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """The bin in which the k-th is, and how many are before that bin."""
    running = counts.cumsum()
    place = int(running.searchsorted(k))
    return place, int(running[place] - counts[place])


def _chunks(sizes: Mapping[str, int], read: Read) -> Iterator[tuple[str, int, Floats]]:
    for name, n in sizes.items():
        for start in range(0, n, CHUNK):
            yield name, start, read(name, start, min(n, start + CHUNK))


def _bits(numbers: Floats) -> NDArray[np.uint32]:
    # Adding 0 turns -0 into 0: the two are equal and must not be in different bins.
    return (numbers + np.float32(0)).view(np.uint32)
