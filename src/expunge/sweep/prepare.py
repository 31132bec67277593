"""What all runs of a study need and one worker makes: measures of the start model, attacks on the control, masks."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.localize.localization_plan import planned
from expunge.masks.scores import check_selection
from expunge.sweep.claims import Claims

SELECTION = ("ratio", "count", "threshold", "scope", "order")
"""What of a mask's recipe says how much is selected; the rest says what is scored, and how."""
LOCALIZATION = (
    "unit",
    "modules",
    "down_projection",
    "forget_objective",
    "gradient",
    "retain_examples",
    "batch_size",
    "seed",
)


@dataclass(frozen=True)
class Job:
    """Something to be made once."""

    what: str
    path: Path
    """The file that is there once it is made."""
    make: Callable[[], object]


def prepare(jobs: Sequence[Job], claims: Claims, *, wait: float) -> None:
    """Have everything made; workers that come at once share the work, and each waits until all is there.

    Args:
        jobs: the same for all workers, in the same order.
        claims: of these jobs.
        wait: seconds between two looks whether others are done.

    Raises:
        ExpungeError: a job cannot be done, or its file is gone.
    """
    while left := [number for number, job in enumerate(jobs) if not job.path.exists()]:
        claims.release_gone()
        taken = claims.take(left, lambda _: {})
        if taken is None:
            attempts = claims.attempts()
            if lost := [jobs[i] for i in left if not claims.is_open(attempts.get(i, [])) and not jobs[i].path.exists()]:
                raise ExpungeError(
                    f"{lost[0].what}: {lost[0].path} is not there, although it was made, or every worker ended while "
                    "making it. Begin a new study in another folder."
                )
            time.sleep(wait)
            continue
        number, trial = taken
        try:
            jobs[number].make()
        except BaseException:
            claims.withdraw(trial)
            raise
        claims.finish(trial, [0.0])


def split_recipe(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a mask's recipe `localize` takes, and what `select`."""
    selection = {name: value for name, value in recipe.items() if name in SELECTION}
    return {name: value for name, value in recipe.items() if name not in SELECTION}, selection


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Raise for a mask's recipe with settings that are unknown or out of range; nothing is computed.

    Raises:
        ExpungeError: no attribution, an unknown name, or a selection out of range.
    """
    scored, selection = split_recipe(recipe)
    name = scored.pop("attribution", None)
    if name is None:
        raise ExpungeError("the recipe of a mask names its attribution: {attribution: wagle, ratio: 0.1}")
    own = {key: value for key, value in scored.items() if key not in LOCALIZATION}
    plan = planned(str(name), scored.get("unit"), own, scored.get("forget_objective", "nll"))
    plan.check(scored.get("gradient", "mean"), scored.get("retain_examples"))
    check_selection(**{key: selection.get(key) for key in SELECTION[:4]}, order=selection.get("order", "top"))
