"""What experiments over arms share: their rows on disk, and a learning rate chosen for each arm by itself.

Arms that share one rate are compared at how well it happens to suit each of them.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress
from expunge.experiments._folder import write

TUNING_SEED = 1000
"""Added to the seed for runs that a learning rate is chosen by, and for no other."""
CHOSEN_BY = ("forget_extraction_strength", "retain_extraction_strength")


class RunLog:
    """What an experiment has found so far, in a JSON file; each row is written once its run is finished."""

    def __init__(self, path: Path) -> None:
        """Take up what the file holds, if it is there.

        Args:
            path: of the file, with `levels` (what the runs are compared with), and the rows `tuning` and `runs`.
        """
        self.path = path
        self.levels: dict[str, Any] = {}
        self.tuning: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            self.levels, self.tuning, self.runs = (content[name] for name in ("levels", "tuning", "runs"))

    def save(self) -> None:
        """Write all of it, whole or not at all."""
        write(self.path, {"levels": self.levels, "tuning": self.tuning, "runs": self.runs})

    def untried(self, arms: Sequence[str], grid: Sequence[float]) -> list[tuple[str, float]]:
        """The arms and rates that no row of `tuning` has."""
        tried = {(row["arm"], row["rate"]) for row in self.tuning}
        return [(arm, rate) for arm in arms for rate in grid if (arm, rate) not in tried]


def chosen(
    log: RunLog,
    arms: Sequence[str],
    grid: Sequence[float],
    run: Callable[[str, float], Mapping[str, Any]],
    what: str,
    progress: Progress | None,
) -> dict[str, float]:
    """The learning rate of the grid with the best balance for each arm; what has been tried is not tried again.

    Args:
        log: where the rows go.
        arms: names of what is compared.
        grid: learning rates.
        run: unlearns with an arm and a rate, on a seed that no reported run has, and gives its `CHOSEN_BY` at least.
        what: the experiment's name, for the progress.
        progress: called with (what, done, total, numbers).
    """
    waiting = log.untried(arms, grid)
    for number, (arm, rate) in enumerate(waiting):
        if progress:
            progress(f"{what}: choose rates", number, len(waiting), f"{arm}, {rate:g}")
        row = run(arm, rate)
        log.tuning.append({"arm": arm, "rate": rate, **row, "score": balance(*(row[name] for name in CHOSEN_BY))})
        log.save()
    best = {}
    for arm in arms:
        rows = [row for row in log.tuning if row["arm"] == arm and row["rate"] in grid]
        best[arm] = float(max(rows, key=lambda row: row["score"])["rate"])
    return best


STEP = 3.0
"""Factor between a learning rate and the next one, while only one side of the best has been seen."""


def searched(
    log: RunLog,
    starts: Mapping[str, float],
    tries: int,
    run: Callable[[str, float], Mapping[str, Any]],
    miss: Callable[[Mapping[str, Any]], tuple[float, bool]],
    what: str,
    progress: Progress | None,
) -> dict[str, float]:
    """The learning rate for each arm that comes nearest to a target; each try follows from those before it.

    Args:
        log: where the rows go, and what has been tried already.
        starts: arms, and the rate that each begins with.
        tries: most rates tried for an arm; with 1 the first one is taken untried.
        run: unlearns with an arm and a rate, on a seed that no reported run has.
        miss: of a row, by how much it misses the target (0 or less: it is reached) and whether its rate is too high.
        what: the experiment's name, for the progress.
        progress: called with (what, done, total, numbers).
    """
    best = {}
    for turn, (arm, start) in enumerate(starts.items()):
        while tries > 1:
            rows = [row for row in log.tuning if row["arm"] == arm]
            rate = next_rate({row["rate"]: miss(row) for row in rows}, start)
            if rate is None or len(rows) >= tries:
                break
            if progress:
                progress(f"{what}: choose rates", turn * tries + len(rows), len(starts) * tries, f"{arm}, {rate:g}")
            log.tuning.append({"arm": arm, "rate": rate, **run(arm, rate)})
            log.save()
        rows = [row for row in log.tuning if row["arm"] == arm]
        best[arm] = float(min(rows, key=lambda row: miss(row)[0])["rate"]) if rows else start
    return best


def next_rate(tried: Mapping[float, tuple[float, bool]], start: float) -> float | None:
    """The learning rate to try next, to two digits: beyond all that were tried, or between the two nearest the target.

    Args:
        tried: rates, each with by how much it missed (0 or less: reached) and whether it was too high.
        start: the first one.

    Returns:
        None where the target is reached, or no rate of two digits is left between two.
    """
    if not tried:
        return start
    if min(missed for missed, _ in tried.values()) <= 0:
        return None
    high = min((rate for rate, (_, too_high) in tried.items() if too_high), default=math.inf)
    low = max((rate for rate, (_, too_high) in tried.items() if not too_high and rate < high), default=0.0)
    if low == 0:
        found = high / STEP
    elif high == math.inf:
        found = low * STEP
    else:
        found = math.sqrt(low * high)
    found = float(f"{found:.1e}")
    return None if found in tried else found


def balance(forget: float, retain: float) -> float:
    """Harmonic mean of 1 - what is left of the forget set and what is left of the retain set, from 0 to 1.

    Raises:
        ExpungeError: a value is not within 0 and 1.
    """
    for value in (forget, retain):
        if not 0 <= value <= 1:
            raise ExpungeError(f"a share that is left must be between 0 and 1; got {value}.")
    gone = 1 - forget
    return 0.0 if gone + retain == 0 else 2 * gone * retain / (gone + retain)
