"""Where points come from; CMA-ES, whose state is computed anew each time, against its own library."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")
cmaes = pytest.importorskip("cmaes")

from expunge.core.checks import ExpungeError  # noqa: E402
from expunge.sweep.objective import Standing  # noqa: E402
from expunge.sweep.samplers import asked, cmaes_point, source  # noqa: E402
from expunge.sweep.space import Point, Space  # noqa: E402

PLANE = Space.read({"x": {"low": -2.0, "high": 2.0}, "y": {"low": 0.01, "high": 100.0, "log": True}}, {})


def loss(point: Point) -> float:
    """Smallest at x = 1, y = 10."""
    return (float(point["x"]) - 1) ** 2 + (np.log10(float(point["y"])) - 1) ** 2


def searched(trials: int, seed: int, violation: Any = lambda point: 0.0) -> list[tuple[Point, Standing]]:
    found: list[tuple[Point, Standing]] = []
    for number in range(trials):
        point = cmaes_point(PLANE, found, number, seed)
        PLANE.check(point)
        found.append((point, Standing(float(violation(point)), (float(loss(point)),))))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_cmaes_finds_the_optimum_and_chance_does_not(seed: int) -> None:
    adapted = np.mean([good.losses[0] for _, good in searched(120, seed)[-20:]])
    drawn = np.mean([loss(PLANE.drawn(number, seed)) for number in range(120)][-20:])
    assert adapted < 0.1 < 0.5 < drawn


def test_cmaes_goes_by_the_order_under_constraints() -> None:
    found = searched(120, 0, violation=lambda point: max(0.0, float(point["x"])))  # x at most 0; without it x = 1
    xs = [float(point["x"]) for point, _ in found[-20:]]
    assert -0.4 < np.mean(xs) < 0.15


def test_cmaes_tells_generations_and_ranks() -> None:
    found = searched(13, 5)
    size = cmaes.CMA(np.full(2, 0.5), 1 / 6).population_size
    assert size == 6
    state = cmaes.CMA(np.full(2, 0.5), 1 / 6, bounds=np.array([[0.0, 1.0]] * 2), seed=5)
    for begin in (0, 6):
        generation = found[begin : begin + 6]
        ranks = np.argsort(np.argsort([good.losses[0] for _, good in generation]))
        units = [((float(p["x"]) + 2) / 4, (np.log10(float(p["y"])) + 2) / 4) for p, _ in generation]
        state.tell([(np.array(unit), float(rank)) for unit, rank in zip(units, ranks, strict=True)])
    state.reseed_rng(__import__("zlib").crc32(b"5:13"))
    x, y = state.ask()
    assert cmaes_point(PLANE, found, 13, 5) == pytest.approx({"x": 4 * x - 2, "y": 10 ** (4 * y - 2)})


def test_what_cmaes_does_not_adapt_is_drawn() -> None:
    space = Space.read(
        {"method": ["npo", "rmu"], "npo.beta": {"low": 0.1, "high": 1}, "n": {"low": 1, "high": 9, "whole": True}}, {}
    )
    points = [cmaes_point(space, [], number, 0) for number in range(30)]
    for point in points:
        space.check(point)
    assert {point["method"] for point in points} == {"npo", "rmu"} and all(isinstance(p["n"], int) for p in points)


def test_sources_and_how_many_points_they_have() -> None:
    lists = Space.read({"x": [1, 2, 3]}, {})
    grid = source("grid", lists, seed=0, objectives=1)
    nobody: Any = SimpleNamespace()
    assert grid.count == 3 and [grid(i, nobody) for i in range(3)] == [{"x": "1"}, {"x": "2"}, {"x": "3"}]
    chance = source("random", PLANE, seed=1, objectives=1)
    assert chance.count is None and chance(4, nobody) == PLANE.drawn(4, 1)
    points: list[Point] = [{"x": "3"}, {"x": "1"}]
    again = source("tpe", lists, seed=0, objectives=1, replayed=points)
    assert again.count == 2 and [dict(again(i, nobody)) for i in range(2)] == points
    assert source("tpe", PLANE, seed=0, objectives=2)(0, nobody) == {}


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_points_of_optuna_are_of_the_space_and_differ(name: Any) -> None:
    import optuna

    space = Space.read({"method": ["npo", "rmu"], "npo.beta": [0.1, 0.5], "x": {"low": 0, "high": 1}}, {})
    points, study = source(name, space, seed=0, objectives=1), optuna.create_study()
    found = []
    for number in range(15):
        points.prepare(study, number)
        trial = study.ask()
        found.append(asked(space, trial))
        space.check(found[-1])
        study.tell(trial, float(found[-1]["x"]))
    assert len({point["x"] for point in found}) == 15
    again = optuna.create_study()
    points.prepare(again, 0)
    assert asked(space, again.ask()) == found[0]  # the same seed, number and history


@pytest.mark.parametrize(
    ("name", "space", "objectives", "message"),
    [
        ("grid", PLANE, 1, "x has a range"),
        ("cmaes", PLANE, 2, "cmaes reaches for one objective"),
        ("cmaes", Space.read({"x": [1]}, {}), 1, "cmaes adapts ranges of numbers"),
    ],
)
def test_what_is_refused(name: Any, space: Space, objectives: int, message: str) -> None:
    with pytest.raises(ExpungeError) as caught:
        source(name, space, seed=0, objectives=objectives)
    assert message in str(caught.value)


def test_points_of_another_space_are_not_replayed() -> None:
    with pytest.raises(ExpungeError, match="is none of the values that this study tries"):
        source("grid", Space.read({"x": [1, 2]}, {}), seed=0, objectives=1, replayed=[{"x": "3"}])
