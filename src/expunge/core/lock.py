"""One writer for each output: a lock file beside it, with the process that holds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLock, Timeout

from expunge.core.checks import ExpungeError
from expunge.core.progress import first_process


def lock_file(path: Path) -> Path:
    """Where the lock of an output file or folder is: beside it, so that the output may be replaced under the lock."""
    path = path.resolve()
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold the lock of an output meanwhile; its parent folder is made where it is missing.

    A lock left by a process that has ended is taken over, if it ran on this host. Of the processes that a launcher
    started the first holds the lock for all. There is nothing to lock for None.

    Raises:
        ExpungeError: another process, or another thread of this one, holds it.
    """
    if path is None or not first_process():
        yield
        return
    file = lock_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = SoftFileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise _held(path, file) from None
    try:
        yield
    finally:
        lock.release()


def check_free(path: Path) -> None:
    """Raise where another process holds the lock of an output; what this process holds itself is free for it."""
    file = lock_file(path)
    if file.exists() and not SoftFileLock(file).is_lock_held_by_us:
        with locked(path):
            pass


def _held(path: Path, file: Path) -> ExpungeError:
    try:
        pid, host = file.read_text(encoding="utf-8").split("\n")[:2]
        since = datetime.fromtimestamp(file.stat().st_mtime).isoformat(" ", "seconds")
    except (OSError, ValueError):  # released, or not yet filled in
        return ExpungeError(f"another process has just begun or ended to write {path}. Try again, or choose another.")
    return ExpungeError(
        f"{path} is being written by process {pid} on host {host.partition('?')[0]} since {since}. Wait for it, stop "
        f"it, or choose another output. Only if that process no longer exists, remove {file}."
    )
