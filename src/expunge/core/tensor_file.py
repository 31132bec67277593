"""Safetensors files as others may read them."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from expunge.core.whole import whole_file


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file, whole or not at all, also when two runs write it at once.

    Args:
        tensors: contiguous, by name.
        path: in a folder that is there.
        metadata: for the header.
    """
    with whole_file(path) as aside:
        save_file(dict(tensors), aside, dict(metadata) if metadata is not None else None)
        give_usual_mode(aside)


def give_usual_mode(*files: Path) -> None:
    """Let files be read by whom the user's umask lets read new ones; safetensors writes them for the user alone."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    for file in files:
        file.chmod(0o666 & ~umask)
