"""Files and folders that are there whole or not at all, also after a kill or a power failure."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expunge.core.lock import holds

_LEFT = re.compile(r"\..+\.\d+\.partial")


def is_left_over(path: Path) -> bool:
    """Is this what a killed process left of a file that was to be written whole?"""
    return _LEFT.fullmatch(path.name) is not None and path.is_file()


def write_whole(path: Path, text: str) -> None:
    """Write a text file aside, then give it its name.

    Args:
        path: in a folder that is there; what has this name is replaced.
        text: written as UTF-8.
    """
    with whole_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write; on leaving, it takes the name `path` in one step, with all that is in it on disk.

    Where the block raises, as on a full disk, what has this name stays as it was. Where this thread holds the lock of
    the file or of a folder that it is in, what killed processes left aside is removed.

    Args:
        path: in a folder that is there; what has this name is replaced.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_names(path.parent)
    if holds(path):
        _remove_left(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into; on leaving, it takes the name `folder` in one step, with all that is in it on disk.

    Whatever has this name is replaced. Where the block raises, nothing is changed. A kill at the very end can leave
    nothing under the name, but never a mixture. The caller holds the folder's lock: what killed processes left aside
    is removed.

    Args:
        folder: its parent is made where it is missing.
    """
    folder = folder.resolve()  # of a symbolic link the target is replaced, and the link stays
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(folder)
    aside, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("partial", "replaced"))
    aside.mkdir()
    try:
        yield aside
        sync_folder(aside)
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        if before.exists() and not folder.exists():
            before.rename(folder)
        raise
    _sync_names(folder.parent)
    _remove_left(folder)


def move_into(aside: Path, folder: Path) -> None:
    """Move everything in a folder, once it is on disk, into another one; what has the same names is replaced.

    Args:
        aside: on the same file system; gone afterwards.
        folder: that it goes into.
    """
    sync_folder(aside)
    for path in sorted(aside.iterdir()):
        target = folder / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        path.replace(target)
    aside.rmdir()
    _sync_names(folder)


def make_room(folder: Path) -> None:
    """Have a folder missing or empty: its name goes first, so that a kill leaves no part of it under the name.

    An empty folder stays, as it may be a mounted one. The caller holds the folder's lock: what killed processes left of
    it is removed, too.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.replaced"))
    if folder.parent.exists():
        _remove_left(folder)


def sync_folder(folder: Path) -> None:
    """Have everything in a folder on disk."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            _sync_names(path)
    _sync_names(folder)


def _remove_left(path: Path) -> None:
    """Remove what killed processes left aside of a file or folder."""
    left = re.compile(rf"\.{re.escape(path.name)}\.\d+\.(partial|replaced)")
    for found in [found for found in path.parent.iterdir() if left.fullmatch(found.name)]:
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()


def _sync_names(folder: Path) -> None:
    """Have the names in a folder on disk; not every system lets a folder be opened for that."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(opened)
    except OSError:
        pass
    finally:
        os.close(opened)
