"""Workers of a study: who they are, a sign of life that each gives, and which of them are gone.

No clock of one machine is compared with that of another: a worker is gone once its sign has not changed for a while by
the clock of whoever watches, or, on the same machine, once its process does not exist.
"""

import json
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.json_text import read_object

FOLDER = "workers"
EVERY = 5.0
"""Seconds between two signs of life."""
GONE_AFTER = 60.0
"""Seconds without a new sign after which a worker is gone."""


def _place() -> str:
    """What names this machine since it was started, and the processes that see each other's numbers."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(str(Path(path).readlink()) if path.endswith("/pid") else Path(path).read_text().strip())
        except OSError:
            continue  # not Linux: the name of the machine has to do
    return ":".join(parts)


@dataclass(frozen=True)
class Worker:
    """One process that runs trials of a study."""

    id: str
    host: str
    pid: int
    place: str

    @classmethod
    def here(cls) -> "Worker":
        """This process."""
        host, pid = socket.gethostname(), os.getpid()
        return cls(f"{host}-{pid}-{uuid.uuid4().hex[:8]}", host, pid, _place())

    def is_here(self) -> bool:
        """Would its process be seen from this one?"""
        return self.place == _place()


def exists(pid: int) -> bool:
    """Is there a process of this number on this machine? On Windows, which has no harmless way to ask: yes."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return not _ended(pid)


def _ended(pid: int) -> bool:
    """Has it ended, and its parent not asked for its exit code yet?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


@contextmanager
def alive(folder: Path, worker: Worker, *, every: float = EVERY) -> Iterator[Callable[[str], None]]:
    """Give a sign of life every few seconds meanwhile.

    Args:
        folder: of the study.
        worker: this process.
        every: seconds between two signs.

    Yields:
        A function that takes what the worker does now, for whoever looks.
    """
    path = folder / FOLDER / f"{worker.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    ended, doing, lock = threading.Event(), {"doing": "", "since": time.time()}, threading.Lock()
    count = 0

    def sign() -> None:
        nonlocal count
        with lock:
            count += 1
            aside = path.with_suffix(".partial")
            try:
                aside.write_text(json.dumps({**asdict(worker), **doing, "signs": count}), encoding="utf-8")
                aside.replace(path)
            except OSError as error:  # such as a full disk; the next sign may come through
                warnings.warn(f"no sign of life could be written to {path}: {error}", stacklevel=2)

    def tell(what: str) -> None:
        doing.update(doing=what, since=time.time())
        sign()

    def beat() -> None:
        while not ended.wait(every):
            sign()

    sign()
    thread = threading.Thread(target=beat, name="sign of life", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


@dataclass
class Watch:
    """Which workers are gone, as seen from one that is there."""

    folder: Path
    gone_after: float = GONE_AFTER
    clock: Callable[[], float] = time.monotonic
    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By worker its last sign, and when that was first seen here."""

    def gone(self, worker: Worker) -> bool:
        """Has a worker ended, or given no sign for too long?"""
        if worker.is_here() and not exists(worker.pid):
            return True
        try:
            sign = (self.folder / FOLDER / f"{worker.id}.json").read_text(encoding="utf-8")
        except OSError:
            sign = ""
        before, since = self.seen.get(worker.id, ("", self.clock()))
        if worker.id not in self.seen or sign != before:
            since = self.clock()
        self.seen[worker.id] = (sign, since)
        return self.clock() - since > self.gone_after


def forget(folder: Path, worker: Worker) -> None:
    """Remove the last sign of a worker that is gone."""
    (folder / FOLDER / f"{worker.id}.json").unlink(missing_ok=True)


def present(folder: Path) -> list[dict[str, Any]]:
    """The last sign of each worker, but of those that ended on this machine."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            sign = read_object(path)
        except OSError:
            continue  # it ended while this was read
        worker = Worker(**{name: sign[name] for name in Worker.__dataclass_fields__})
        if exists(worker.pid) or not worker.is_here():
            found.append(sign)
    return found
