"""Safetensors files as others may read them, and those of the cache, which are believed only where they are sound."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge.core.checks import ExpungeError
from expunge.core.whole import whole_file


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """What a file that is damaged, or that others made, makes its reader raise, as one of our errors.

    Args:
        path: the file.
        what: it should hold: `mask`.
    """
    try:
        yield
    except SafetensorError as error:
        raise ExpungeError(f"{path} is not a safetensors file, so it holds no {what}: {error}") from error
    except ExpungeError:
        raise
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ExpungeError(
            f"{path} holds a damaged {what} ({type(error).__name__}: {error}). Make it again."
        ) from error


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


def keep_tensors(
    tensors: Mapping[str, Tensor], path: Path, key: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write an entry of the cache, with its key and a digest of its content inside.

    Args:
        tensors: contiguous, by name.
        path: in a folder that is there.
        key: fingerprint of what decides the content.
        metadata: more for the header.
    """
    save_tensors(tensors, path, {**(metadata or {}), "key": key, "digest": _digest(tensors)})


def kept_tensors(path: Path, key: str, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and header of an entry of the cache; None where it is missing, damaged or of other content.

    The caller then makes and keeps them again.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    sound = metadata.get("key") == key and metadata.get("digest") == _digest(tensors)
    return (tensors, metadata) if sound else None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"xxh3:{digest.hexdigest()}"


def give_usual_mode(*files: Path) -> None:
    """Let files be read by whom the user's umask lets read new ones; safetensors writes them for the user alone."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    for file in files:
        file.chmod(0o666 & ~umask)
