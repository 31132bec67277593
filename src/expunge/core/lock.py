"""One writer for each output: a lock file beside it, with the process that holds it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLock, Timeout

from expunge.core.checks import ExpungeError
from expunge.core.progress import first_process


def lock_file(path: str | Path) -> Path:
    """Where the lock of an output file or folder is: beside it, so that the output may be replaced under the lock."""
    try:
        path = Path(path).resolve()
    except (OSError, RuntimeError) as error:  # links that point at each other
        raise ExpungeError(f"the output {path} cannot be located: {error}. Choose another output.") from error
    if not path.name:
        raise ExpungeError(f"the output {path} is the root of a file system. Name a folder or file in it.")
    return path.with_name(f".{path.name}.lock")


EMPTY_FOR = 10.0
"""Seconds after which a lock without content is nobody's."""
_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""Lock files that this thread holds."""


@contextmanager
def locked(path: str | Path | None) -> Iterator[None]:
    """Hold the lock of an output meanwhile; what holds it already may ask again.

    A lock left by a process that has ended is taken over, if it ran on this host. Of the processes that a launcher
    started the first holds the lock for all. There is nothing to lock for None. Folders that are made for the lock file
    are removed again where they stay empty.

    Raises:
        ExpungeError: another process, or another thread of this one, holds it.
    """
    if path is None or not first_process() or (file := lock_file(path)) in _HELD.get():
        yield
        return
    made = [folder for folder in file.parents if not folder.exists()]
    lock = SoftFileLock(file)
    _drop_empty(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise _held(path, file) from None
    except FileNotFoundError as error:  # a file system such as /proc, which makes no files
        raise ExpungeError(f"the output {path} cannot be written there. Choose another output.") from error
    before = _HELD.set(_HELD.get() | {file})
    try:
        yield
    finally:
        _HELD.reset(before)
        lock.release()
        for folder in made:
            with suppress(OSError):  # it is in use
                folder.rmdir()


def holds(path: Path) -> bool:
    """Does this thread hold the lock of a file, or of a folder that it is in?"""
    held = _HELD.get()
    return bool(held) and any(lock_file(place) in held for place in (path, *path.absolute().parents) if place.name)


def _drop_empty(file: Path) -> None:
    """Remove a lock that a process left empty: it was killed, or the disk was full, between making and filling it."""
    with suppress(OSError):
        found = file.stat()
        if found.st_size == 0 and time.time() - found.st_mtime > EMPTY_FOR:
            file.unlink()


def check_free(path: str | Path) -> None:
    """Raise where another process, or another thread, holds the lock of an output."""
    if lock_file(path).exists():
        with locked(path):
            pass


def _held(path: str | Path, file: Path) -> ExpungeError:
    try:
        pid, host = file.read_text(encoding="utf-8").split("\n")[:2]
        since = datetime.fromtimestamp(file.stat().st_mtime).isoformat(" ", "seconds")
    except (OSError, ValueError):  # released, or not yet filled in
        return ExpungeError(
            f"another process has just begun or ended to write {path}. Try again. If no process writes it, remove "
            f"{file}."
        )
    return ExpungeError(
        f"{path} is being written by process {pid} on host {host.partition('?')[0]} since {since}. Wait for it, stop "
        f"it, or choose another output. Only if that process no longer exists, remove {file}."
    )
