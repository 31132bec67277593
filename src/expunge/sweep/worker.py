"""One worker: takes points of a study and runs them until none is left or its time is up. What a run is, it is told."""

import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.core.checks import ExpungeError
from expunge.core.format import counted
from expunge.core.json_text import read_object
from expunge.core.progress import Progress
from expunge.results.studies import TRIAL, finished
from expunge.sweep.claims import Claims
from expunge.sweep.objective import Standing
from expunge.sweep.places import publish, running_folder, take_away, trial_folder
from expunge.sweep.samplers import Source, asked
from expunge.sweep.space import Point, Space
from expunge.sweep.workers import forget

if TYPE_CHECKING:
    from optuna.trial import Trial

FORMAT = 1
WAIT = 1.0
"""Seconds between two looks whether a point is free again, while others run the last ones."""
LARGEST = 1e12
"""What stands for infinity where a storage or a sampler takes none."""

State = Literal["finished", "pruned", "failed"]


class Lost(Exception):
    """This attempt counts no more: its worker was taken to be gone, and another one makes it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run gave."""

    state: State
    standing: Standing | None = None
    """Of its best candidate; None where it failed."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """All else that is kept of it, as JSON holds it."""
    why: str = ""
    """It failed, or was ended early."""


@dataclass(frozen=True)
class Attempt:
    """What is to be run now."""

    number: int
    point: Point
    folder: Path
    """To write into; it gets its name once the run is finished."""
    look: Callable[[int, Standing], str | None]
    """To be told the number of a candidate and how good it is; a text ends the run and is its reason.

    Raises `Lost` where another worker runs this point by now.
    """


Run = Callable[[Attempt], Outcome]


@dataclass(frozen=True, kw_only=True)
class Labor:
    """A study as its workers see it."""

    folder: Path
    space: Space
    source: Source
    """Where points come from."""
    claims: Claims
    run: Run
    trials: int | None
    """How many points there are; None: as many as the time allows."""
    seconds: float | None = None
    """After them no further run is begun; None: they do not matter."""
    prunes: bool = False
    """Is a run ended that breaks a constraint and has forgotten less than half of the others had?"""
    finished: Callable[[], str] = lambda: ""
    """Called whenever a run was finished, by whichever worker; what it returns is shown."""
    doing: Callable[[str], None] = lambda what: None
    """Told what this worker does now."""
    progress: Progress | None = None
    wait: float = WAIT


def work(labor: Labor) -> int:
    """Run points until none is left to run, or the time is up; how many this worker ran to their end.

    While others run the last points, it waits: where their workers are gone, it runs them itself.
    """
    began, done, closed, said = time.monotonic(), 0, -1, ""
    while True:
        tidy(labor)
        attempts = labor.claims.attempts()
        numbers = itertools.count() if labor.trials is None else range(labor.trials)
        before, closed = closed, sum(not labor.claims.is_open(made) for made in attempts.values())
        if closed != before:
            said = labor.finished()
        if labor.progress:
            labor.progress("sweep", closed, labor.trials or max(closed + 1, len(attempts)), said)
        if labor.trials is not None and closed >= labor.trials:
            return done
        if labor.seconds is not None and time.monotonic() - began + _seconds_a_trial(labor) > labor.seconds:
            return done
        taken = labor.claims.take(numbers, lambda point: _known(labor, point))
        if taken is None:
            labor.doing("waiting for the last trials")
            time.sleep(labor.wait)
            continue
        done += _attempt(labor, *taken)


def tidy(labor: Labor) -> None:
    """Free what workers that are gone were running, and close the points that ended all of them."""
    for point, owner in labor.claims.release_gone():
        take_away(running_folder(labor.folder, point, owner.id))
        forget(labor.folder, owner)
    for point, attempts in labor.claims.attempts().items():
        if labor.claims.is_given_up(attempts) and not trial_folder(labor.folder, point).exists():
            known = {name: value for attempt in attempts for name, value in attempt.params.items()}
            why = (
                f"{counted(len(attempts), 'worker')} ended while running it. Was there too little memory, or were they "
                "killed?"
            )
            aside = _made_empty(running_folder(labor.folder, point, labor.claims.worker.id))
            _publish(labor, Attempt(point, known, aside, lambda *_: None), Outcome(state="failed", why=why), 0.0)


def _known(labor: Labor, point: int) -> Mapping[str, Any]:
    """The values of a point where the sampler of the study is not asked: it was run already, or they follow from it."""
    there = trial_folder(labor.folder, point) / TRIAL
    return read_object(there)["point"] if there.is_file() else labor.source(point, labor.claims)


def _attempt(labor: Labor, number: int, trial: "Trial") -> bool:
    """Make an attempt; was it the one that counts, and run here?"""
    from optuna.exceptions import UpdateFinishedTrialError

    aside = running_folder(labor.folder, number, labor.claims.worker.id)
    try:
        labor.source.prepare(labor.claims.study, number)
        point = asked(labor.space, trial)
        there = trial_folder(labor.folder, number)
        if there.is_dir():
            _tell(labor, trial, read_object(there / TRIAL))
            return False
        _made_empty(aside)
        labor.doing(f"trial {number}")
        began = time.monotonic()
        attempt = Attempt(number, point, aside, lambda candidate, good: _look(labor, trial, candidate, good))
        try:
            outcome = labor.run(attempt)
        except (ExpungeError, MemoryError) as error:
            outcome = Outcome(state="failed", why=str(error) or type(error).__name__)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            outcome = Outcome(state="failed", why=str(error).partition("\n")[0])
        if not labor.claims.holds(trial):  # its folder was taken away, and may lack what was in it
            raise Lost
        ours = _publish(labor, attempt, outcome, time.monotonic() - began)
        _tell(labor, trial, read_object(there / TRIAL))
        return ours
    except (Lost, UpdateFinishedTrialError):  # the latter where it was lost between a look and what follows
        shutil.rmtree(aside, ignore_errors=True)
        return False
    except BaseException as error:
        lost = isinstance(error, Exception) and not labor.claims.holds(trial)
        labor.claims.withdraw(trial)  # a fault of ours, or Ctrl-C: another worker, or a later one, tries again
        shutil.rmtree(aside, ignore_errors=True)
        if lost:  # without its folder it could not go on
            return False
        raise


def _look(labor: Labor, trial: "Trial", candidate: int, good: Standing) -> str | None:
    if not labor.claims.holds(trial):
        raise Lost
    if len(good.losses) > 1 or not labor.prunes:
        return None
    trial.report(_bounded(good.losses[0]), candidate)
    if good.feasible or not trial.should_prune():
        return None
    return "it breaks a constraint, and half of the other runs had forgotten more by then"


def _made_empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _publish(labor: Labor, attempt: Attempt, outcome: Outcome, seconds: float) -> bool:
    good = outcome.standing
    told = {
        "format": FORMAT,
        "number": attempt.number,
        "state": outcome.state,
        "why": outcome.why,
        "point": attempt.point,
        "settings": labor.space.settings(attempt.point) if attempt.point else {},
        "standing": None if good is None else {"violation": _bounded(good.violation), "losses": _all(good.losses)},
        **outcome.record,
        "worker": labor.claims.worker.id,
        "seconds": round(seconds, 2),
    }
    aside = (
        attempt.folder / TRIAL
    )  # the whole folder is; where it was taken away, this raises rather than makes another
    aside.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return publish(attempt.folder, trial_folder(labor.folder, attempt.number))


def _all(losses: Sequence[float]) -> list[float]:
    return [_bounded(loss) for loss in losses]


def _bounded(value: float) -> float:
    return max(-LARGEST, min(LARGEST, value))


def _tell(labor: Labor, trial: "Trial", told: Mapping[str, Any]) -> None:
    """Tell the storage how a trial ended that has its folder."""
    good = told["standing"]
    labor.claims.finish(
        trial,
        None if good is None else good["losses"],
        violation=0.0 if good is None else good["violation"],
        pruned=told["state"] == "pruned",
        why=told["why"] if good is None else "",
    )


def _seconds_a_trial(labor: Labor) -> float:
    """What a trial took so far, on average."""
    seconds = [read_object(path / TRIAL)["seconds"] for _, path in finished(labor.folder)]
    return sum(seconds) / len(seconds) if seconds else 0.0
