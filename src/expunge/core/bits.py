"""Selections with one bit a unit."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pack(selected: Tensor) -> Tensor:
    """Bool `[n]` to uint8 `[ceil(n / 8)]`, lowest bit first."""
    return torch.from_numpy(np.packbits(selected.cpu().numpy(), bitorder="little"))


def unpack(bits: Tensor, n: int) -> Tensor:
    """The inverse of `pack`."""
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=n, bitorder="little").view(np.bool_))


_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def popcount(bits: Tensor) -> int:
    """How many bits are set."""
    return sum(int(_ONES[piece].sum(dtype=np.int64)) for piece in _pieces(bits.numpy()))


def _pieces(array: NDArray[np.uint8], size: int = 2**24) -> Iterator[NDArray[np.uint8]]:
    return (array[start : start + size] for start in range(0, len(array), size))
