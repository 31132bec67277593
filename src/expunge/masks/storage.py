"""Files of masks and scores: tensors by group of units, with layout and manifest in the header."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.core.tensor_file import save_tensors
from expunge.masks.units import Layout


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


def write(
    path: Path, tensors: dict[str, Tensor], layout: Layout, manifest: Manifest | None, header: dict[str, str]
) -> Path:
    """Write tensors with layout and manifest into one safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {**header, "layout": json.dumps(layout.to_json())}
    if manifest is not None:
        header["manifest"] = json.dumps(asdict(manifest), default=str)
    save_tensors(tensors, path, header)
    return path


def read_header(path: Path, form: str, what: str) -> tuple[Layout, Manifest | None, dict[str, str]]:
    """Layout, manifest and header of a file that `write` wrote.

    Raises:
        ExpungeError: no such file, or one that holds something else.
    """
    if not path.is_file():
        raise ExpungeError(f"no {what} at {path}. Make one: expunge localize model=... forget=... output=...")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ExpungeError(f"{path} is not a safetensors file, so it holds no {what}: {error}") from error
    if header.get("format") != form:
        raise ExpungeError(
            f"{path} holds no {what}: its format is {header.get('format')!r}, and '{form}' is read here."
        )
    manifest = Manifest(**json.loads(header["manifest"])) if "manifest" in header else None
    return Layout.from_json(json.loads(header["layout"])), manifest, header
