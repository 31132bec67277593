"""Where points come from: a grid, chance, another study, CMA-ES, or a sampler of Optuna."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from expunge.core.checks import ExpungeError, require
from expunge.sweep.objective import Standing
from expunge.sweep.space import Choices, Parameter, Point, Range, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

    from expunge.sweep.claims import Claims

Sampler = Literal["grid", "random", "tpe", "cmaes", "nsga2"]
STARTUP = 10
"""Random points before TPE models what was found."""
STEP = 1 / 6
"""CMA-ES begins with this standard deviation in the unit cube, around its middle."""

_Fixed = Callable[[int, "Claims"], Mapping[str, Any]]


@dataclass(frozen=True)
class Source:
    """The points of a study by their number."""

    fixed: _Fixed
    """Those values of a point that Optuna is not asked for: all, or none."""
    count: int | None = None
    """How many points there are; None: as many as are wanted."""
    sampler: "Callable[[int], BaseSampler] | None" = None
    """Of Optuna, for the point of a number."""

    def __call__(self, point: int, claims: "Claims") -> Mapping[str, Any]:
        """What is known of a point before a sampler is asked."""
        return self.fixed(point, claims)

    def prepare(self, study: "Study", point: int) -> None:
        """Give the study the sampler for a point."""
        if self.sampler is not None:
            study.sampler = self.sampler(point)


def source(sampler: Sampler, space: Space, *, seed: int, objectives: int, replayed: Sequence[Point] = ()) -> Source:
    """The source of a study's points.

    Args:
        sampler: which.
        space: what may be tried.
        seed: of everything that is drawn. A point is drawn from it and its own number, so that workers differ.
        objectives: how many.
        replayed: points of another study, to be run again in their order instead.

    Raises:
        ExpungeError: a sampler that does not go with the space or the objectives.
    """
    if replayed:
        for point in replayed:
            space.check(point)
        return Source(lambda number, _: replayed[number], len(replayed))
    if sampler == "grid":
        grid = [*space.grid()]
        return Source(lambda number, _: grid[number], len(grid))
    if sampler == "random":
        return Source(lambda number, _: space.drawn(number, seed))
    if sampler == "cmaes":
        require(objectives == 1, f"cmaes reaches for one objective; this study has {objectives}. Take tpe or nsga2.")
        check_cmaes(space)
        return Source(lambda number, claims: cmaes_point(space, history(claims), number, seed))

    def optunas(number: int) -> "BaseSampler":
        import optuna

        own = zlib.crc32(f"{seed}:{number}".encode())
        if sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=own)
        return optuna.samplers.TPESampler(seed=own, n_startup_trials=STARTUP)

    return Source(lambda *_: {}, sampler=optunas)


def asked(space: Space, trial: "Trial") -> Point:
    """The values of a trial, each asked for from Optuna, which keeps them."""
    point: Point = {}
    for parameter in space.parameters:
        if parameter in space.active(point):
            point[parameter.name] = _suggested(parameter, trial)
    return point


def _suggested(parameter: Parameter, trial: "Trial") -> Any:
    name, values = parameter.name, parameter.values
    if isinstance(values, Choices):
        return trial.suggest_categorical(name, [*values.values])
    if values.whole:
        return trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


def history(claims: "Claims") -> list[tuple[Point, Standing]]:
    """What was found so far, by point."""
    from optuna.trial import TrialState

    found = []
    for _, attempts in sorted(claims.attempts().items()):
        for attempt in attempts:
            if attempt.state == TrialState.COMPLETE and attempt.values is not None:
                violation = max([0.0, *attempt.constraints.values()])
                found.append((attempt.params, Standing(violation, tuple(attempt.values))))
    return found


def check_cmaes(space: Space) -> None:
    """Raise where CMA-ES has too little to adapt, or is not installed."""
    import importlib.util

    if importlib.util.find_spec("cmaes") is None:
        raise ExpungeError("sampler=cmaes needs cmaes, which is not installed: pip install 'expunge[optuna]'")
    if not _ranges(space):
        raise ExpungeError("cmaes adapts ranges of numbers, and this study has none. Give a setting one, or take tpe.")


def _ranges(space: Space) -> list[tuple[str, Range]]:
    return [(p.name, p.values) for p in space.parameters if isinstance(p.values, Range) and not p.owner]


def cmaes_point(space: Space, found: Sequence[tuple[Point, Standing]], number: int, seed: int) -> Point:
    """The next point of CMA-ES; what it does not adapt (lists, settings of one method) is drawn by chance.

    Its state is computed anew from what was found, in generations, and never stored: Optuna's own sampler keeps it as a
    pickle in the storage, from which whoever can write there could run code. CMA-ES sees ranks alone, so those of the
    constrained order are told.

    Args:
        space: what may be tried.
        found: finished points.
        number: of the point.
        seed: of everything that is drawn.

    Source: Hansen, arXiv:1604.00772.
    """
    import cmaes

    ranges = _ranges(space)
    state = cmaes.CMA(np.full(len(ranges), 0.5), STEP, bounds=np.tile([0.0, 1.0], (len(ranges), 1)), seed=seed)
    size = state.population_size
    for begin in range(0, len(found) - size + 1, size):
        generation = found[begin : begin + size]
        orders = sorted({good.order for _, good in generation})
        state.tell(
            [
                (np.array([_unit(values, point[name]) for name, values in ranges]), float(orders.index(good.order)))
                for point, good in generation
            ]
        )
    state.reseed_rng(zlib.crc32(f"{seed}:{number}".encode()))
    adapted = dict(zip((name for name, _ in ranges), state.ask(), strict=True))
    return space.drawn(number, seed) | {name: _from_unit(values, adapted[name]) for name, values in ranges}


def _unit(values: Range, value: Any) -> float:
    low, high, at = (math.log(v) if values.log else float(v) for v in (values.low, values.high, value))
    return (at - low) / (high - low)


def _from_unit(values: Range, share: float) -> int | float:
    low, high = (math.log(v) if values.log else float(v) for v in (values.low, values.high))
    value = low + float(share) * (high - low)
    value = min(max(math.exp(value) if values.log else value, values.low), values.high)
    return round(value) if values.whole else value
