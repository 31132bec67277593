"""Progress of anything that takes more than a few seconds: what is happening, how far it is, how long it will take."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from expunge.core.format import legible

Progress = Callable[[str, int, int, str], None]
"""Called with (what is happening, steps done, steps in all, a few numbers or an empty text)."""

PLAIN_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""


def processes() -> int:
    """How many processes a launcher started; known before any process group exists."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def first_process() -> bool:
    """Is this the one process, or the first of those that a launcher started? It alone speaks and keeps folders."""
    return os.environ.get("RANK", "0") == "0"


def renamed(progress: Progress | None, what: str) -> Progress | None:
    """Progress of a run within something larger, under a name that says which."""
    return None if progress is None else lambda _, done, total, numbers: progress(what, done, total, numbers)


def under(progress: Progress | None, label: str) -> Progress | None:
    """Progress with a label before what is happening."""
    if progress is None:
        return None
    return lambda what, done, total, numbers: progress(f"{label}: {what}", done, total, numbers)


@contextmanager
def shown() -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, else a line now and then, each with the time that is left."""
    if not first_process():
        yield lambda *_: None
        return
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    # From the whole of a piece of work, since one step of it may take longer than the 30 s that rich looks back.
    with Bars(*columns, console=Console(stderr=True), speed_estimate_period=math.inf) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int, numbers: str) -> None:
            what, numbers = legible(what), legible(numbers)
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, numbers=numbers)
            bars.update(tasks[what], completed=done, total=total, numbers=numbers)
            if done >= total:  # a line that stays, so that hundreds of pieces do not fill the screen with bars
                bars.remove_task(tasks.pop(what))
                bars.console.print(_line(what, done, total, "", numbers), markup=False, highlight=False)

        yield update


class _PlainProgress:
    """Progress as lines: the first and the last of each piece of work, and one every few seconds between them."""

    def __init__(self) -> None:
        self.began: dict[str, tuple[float, int]] = {}
        self.seen: dict[str, int] = {}
        self.said: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int, numbers: str) -> None:
        now = time.monotonic()
        if done < self.seen.get(what, done):  # another piece of the same name: its time is its own
            del self.began[what], self.said[what]
        self.seen[what] = done
        start, first = self.began.setdefault(what, (now, done))
        if done < total and now - self.said.get(what, -PLAIN_EVERY) < PLAIN_EVERY:
            return
        self.said[what] = now
        left = _duration((now - start) / (done - first) * (total - done)) if first < done < total else ""
        print(_line(what, done, total, left, numbers), file=sys.stderr, flush=True)


def _line(what: str, done: int, total: int, left: str, numbers: str) -> str:
    return legible("  ".join(filter(None, (what, f"{done}/{total}", f"{left} left" if left else "", numbers))))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
