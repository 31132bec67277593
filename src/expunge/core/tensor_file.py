"""Safetensors files as others may read them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from expunge.core.checks import ExpungeError


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
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file(dict(tensors), partial, dict(metadata) if metadata is not None else None)
    give_usual_mode(partial)
    partial.replace(path)


def give_usual_mode(*files: Path) -> None:
    """Let files be read by whom the user's umask lets read new ones; safetensors writes them for the user alone."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    for file in files:
        file.chmod(0o666 & ~umask)
