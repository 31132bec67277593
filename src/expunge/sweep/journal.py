"""Where a study keeps what its workers did: Optuna's journal in a file that survives kills, or a database."""

import os
import random
import re
import time
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.checks import ExpungeError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.storages.journal import BaseJournalBackend

FILE = "journal.log"
TORN = "torn"
GRACE = 30
"""Seconds after which a lock that does not change hands is taken from whoever holds it."""
TRIES = 5
"""Of making the tables of a database, where several workers begin at once and each finds none."""
MADE_AT_ONCE = ("IntegrityError", "OperationalError", "ProgrammingError")
"""SQLAlchemy's errors for a table or row that another worker has just made."""
PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]*@")


def require_optuna() -> None:
    """Raise where Optuna is not installed."""
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise ExpungeError("a sweep needs Optuna, which is not installed: pip install 'expunge[optuna]'")


def storage_of(folder: Path, url: str | None, *, grace: int = GRACE) -> "BaseStorage":
    """The storage of a study.

    Args:
        folder: of the study, shared by all its workers.
        url: of a database, as SQLAlchemy takes it; None: a journal in the folder.
        grace: seconds after which a lock of the journal is taken from a worker that was killed while it held it.

    Raises:
        ExpungeError: the database cannot be reached, or needs a package that is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        return optuna.storages.JournalStorage(journal(folder / FILE, grace=grace))
    arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    left = TRIES
    while True:
        left -= 1
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
        except Exception as error:
            if not left or type(error).__name__ not in MADE_AT_ONCE:
                raise ExpungeError(f"storage={without_password(url)} cannot be used: {_first_line(error)}") from error
        time.sleep(random.uniform(0.2, 1.0))


def opened(storage: "BaseStorage", name: str, objectives: int) -> "Study":
    """A study of Optuna, made where it is not there yet."""
    import optuna

    return optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["minimize"] * objectives,
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )


def without_password(url: str) -> str:
    """A database's URL as it may be shown and written."""
    return PASSWORD.sub(r"\1:***@", url)


def _first_line(error: Exception) -> str:
    return without_password(str(error).strip().partition("\n")[0])


def journal(path: Path, *, grace: int = GRACE) -> "BaseJournalBackend":
    """A journal file to which many processes append, under a lock that a network file system keeps, too.

    Args:
        path: the file; made where it is missing.
        grace: as for `storage_of`.
    """
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

    class Journal(JournalFileBackend):
        """Optuna's journal, but a line that a killed process left half written is set aside."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self._lock.acquire()
            try:
                set_torn_aside(path)
                _append(path, logs)
            finally:
                self._lock.release()

        def read_logs(self, log_number_from: int) -> Any:
            try:
                yield from super().read_logs(log_number_from)
            except ValueError as error:
                raise ExpungeError(
                    f"the journal {path} is damaged before its last line: {error}. Copy the folder's trials/ to a new "
                    "one and start the sweep there: finished trials are taken as they are."
                ) from error

    class Lock(JournalFileSymlinkLock):
        """Optuna's lock, a link that leads to the journal from wherever the folder is mounted."""

        def __init__(self) -> None:
            super().__init__(str(path), grace_period=grace)
            # By the date of what the link leads to Optuna sees that the lock is old; a link that leads nowhere, as one
            # to a relative path does, would be waited for without end.
            self._lock_target_file = path.name

    # Windows lets few users make symbolic links; file systems older than NFSv3 know no exclusive creation.
    lock = JournalFileOpenLock(str(path), grace_period=grace) if os.name == "nt" else Lock()
    return Journal(str(path), lock_obj=lock)


def _append(path: Path, logs: list[dict[str, Any]]) -> None:
    import json

    text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
    with path.open("ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def set_torn_aside(path: Path) -> Path | None:
    """Move what follows the last line end of a journal into a file of its own: a line that was never finished.

    The caller holds the lock of the journal, so that nobody is writing this line.

    Args:
        path: the journal.

    Returns:
        The file with the torn line; None where there is none.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return None
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return None
        whole = _end_of_last_line(file, size)
        file.seek(whole)
        torn = file.read()
        aside = path.with_name(f"{path.name}.{TORN}.{uuid.uuid4().hex[:8]}")
        aside.write_bytes(torn)
        file.truncate(whole)
        os.fsync(file.fileno())
    warnings.warn(
        f"the last line of {path} was cut off, as a process was killed while it wrote it. It is set aside in "
        f"{aside.name}; what it said is done again.",
        stacklevel=2,
    )
    return aside


def _end_of_last_line(file: Any, size: int) -> int:
    """The position behind the last line end; 0 where there is none."""
    at = size
    while at > 0:
        start = max(0, at - 65536)
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        at = start
    return 0
