"""What a study looks for: objectives to reach as far as possible, under constraints that a model must keep. Pure.

A constraint is no term of a sum. A candidate that keeps all constraints beats every one that breaks one; among those
that break some, the one that breaks them least is best.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.core.checks import ExpungeError
from expunge.results.measures import Measure

RECOVERY = "recovery"
"""The worst mean recovery above the control over the attacks of the study."""
AUES = "aues"
"""The area under the candidates of a run up to this one, with the start model."""
UTILITY = "utility"
"""Stands for model utility where the data allow it, else for the retain set's extraction strength."""

Direction = Literal["minimize", "maximize", "near"]

_CONSTRAINT = re.compile(r"\s*([\w.]+)\s*(>=|<=)\s*([-+.\deE]+)\s*(%?)\s*(of start)?\s*")
_OBJECTIVE = re.compile(r"\s*(?:(minimize|maximize)\s+)?([\w.]+)\s*")


@dataclass(frozen=True)
class Constraint:
    """What a candidate must keep: `retain_extraction_strength >= 0.95 of start`."""

    measure: str
    at_least: bool
    limit: float
    of_start: bool = False
    """Is the limit a share of what the start model has?"""

    @classmethod
    def read(cls, text: str) -> "Constraint":
        """A constraint from text: `measure >= number`, `measure <= number`, `measure >= 95 % of start`.

        Raises:
            ExpungeError: it is none.
        """
        found = _CONSTRAINT.fullmatch(text)
        limit = math.nan
        if found is not None:
            try:
                limit = float(found[3])
            except ValueError:
                found = None
        if found is None or not math.isfinite(limit):
            raise ExpungeError(
                f"constraint={text!r} is none, such as 'utility >= 0.95 of start' or 'retain_rouge >= 0.4'."
            )
        return cls(found[1], found[2] == ">=", limit / 100 if found[4] else limit, found[5] is not None)

    def bound(self, start: Mapping[str, float]) -> float:
        """The limit as a number."""
        return self.limit * start[self.measure] if self.of_start else self.limit

    def violation(self, values: Mapping[str, float], start: Mapping[str, float]) -> float:
        """By how much values break it; 0 or less where they keep it, infinite where the measure has no value.

        Args:
            values: measures of a candidate.
            start: those of the start model.
        """
        value = values[self.measure]
        if math.isnan(value):
            return math.inf
        return self.bound(start) - value if self.at_least else value - self.bound(start)

    def __str__(self) -> str:
        """As it could be read."""
        share = f"{self.limit:g} of start" if self.of_start else f"{self.limit:g}"
        return f"{self.measure} {'>=' if self.at_least else '<='} {share}"


@dataclass(frozen=True)
class Objective:
    """What is to become small or large."""

    measure: str
    direction: Direction
    target: float = 0.0
    """What `near` is near to."""

    def loss(self, value: float) -> float:
        """A value as something to minimize; infinite where there is none."""
        if math.isnan(value):
            return math.inf
        return {"minimize": value, "maximize": -value, "near": abs(value - self.target)}[self.direction]

    def __str__(self) -> str:
        """In words."""
        return (
            f"{self.measure} near {self.target:g}" if self.direction == "near" else f"{self.direction} {self.measure}"
        )


def read_objective(text: str) -> tuple[str, Direction | None]:
    """An objective from text: `measure`, `minimize measure`, `maximize measure`.

    Returns:
        The measure, and the direction where it was said.

    Raises:
        ExpungeError: it is none.
    """
    found = _OBJECTIVE.fullmatch(text)
    if found is None:
        raise ExpungeError(f"objective={text!r} is none, such as 'recovery' or 'minimize forget_rouge'.")
    return found[2], found[1]  # type: ignore[return-value]


def direction_of(name: str, asked: Direction | None, measured: Measure | None) -> Objective:
    """An objective with the direction that was asked for, else the one that the measure says is better.

    Args:
        name: of the measure.
        asked: the direction that was said.
        measured: the measure of the start model; None for what a study computes itself.

    Raises:
        ExpungeError: nothing says which way is better.
    """
    if asked is not None:
        return Objective(name, asked)
    if measured is None:
        return Objective(name, "maximize" if name == AUES else "minimize")
    if measured.better == "near" and measured.target is not None:
        return Objective(name, "near", measured.target)
    if measured.better in ("lower", "higher"):
        return Objective(name, "minimize" if measured.better == "lower" else "maximize")
    raise ExpungeError(f"no value of {name} is better by itself. Say which: 'minimize {name}' or 'maximize {name}'.")


@dataclass(frozen=True)
class Standing:
    """How good something is: by how much it breaks the constraints, and what there is to minimize."""

    violation: float
    """The sum over constraints of how much each is broken; 0 where all are kept."""
    losses: tuple[float, ...]

    @property
    def feasible(self) -> bool:
        """Are all constraints kept?"""
        return self.violation == 0

    @property
    def order(self) -> tuple[float, ...]:
        """Smaller is better: kept constraints first, then the least broken ones, then the first objective."""
        return (self.violation, *self.losses)

    def beats(self, other: "Standing") -> bool:
        """Is it better in one respect and worse in none?"""
        if self.violation != other.violation:
            return self.violation < other.violation
        pairs = list(zip(self.losses, other.losses, strict=True))
        return all(ours <= theirs for ours, theirs in pairs) and any(ours < theirs for ours, theirs in pairs)


def standing(
    values: Mapping[str, float],
    start: Mapping[str, float],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> Standing:
    """How good measured values are."""
    broken = sum(max(0.0, constraint.violation(values, start)) for constraint in constraints)
    return Standing(broken, tuple(objective.loss(values[objective.measure]) for objective in objectives))


def best(standings: Sequence[Standing]) -> int:
    """The position of the best; of equal ones the first.

    Raises:
        ExpungeError: there is none.
    """
    if not standings:
        raise ExpungeError("there is no candidate yet.")
    return min(range(len(standings)), key=lambda i: (standings[i].order, i))


def front(standings: Sequence[Standing]) -> list[int]:
    """Positions of those that keep all constraints and that no other one beats, by rising first objective."""
    kept = [i for i, one in enumerate(standings) if one.feasible and all(map(math.isfinite, one.losses))]
    unbeaten = [i for i in kept if not any(standings[j].beats(standings[i]) for j in kept)]
    return sorted(unbeaten, key=lambda i: (standings[i].losses, i))


def averaged(standings: Sequence[Standing]) -> Standing:
    """The mean over the seeds of a recipe; it keeps the constraints where every seed does."""
    n = len(standings)
    losses = zip(*(one.losses for one in standings), strict=True)
    return Standing(sum(one.violation for one in standings) / n, tuple(sum(values) / n for values in losses))
