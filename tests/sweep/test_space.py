"""What a study tries: grids, draws, settings that take part with one method alone, and what is refused."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.core.checks import ExpungeError
from expunge.sweep.space import Range, Space, label, recipe

SEARCH = {"method": ["npo", "rmu"], "npo.beta": [0.1, 0.5], "learning_rate": [1e-5, 1e-4]}


def test_a_grid_by_hand() -> None:
    assert [*Space.read(SEARCH, {}).grid()] == [
        {"method": "npo", "npo.beta": "0.1", "learning_rate": "1e-05"},
        {"method": "npo", "npo.beta": "0.1", "learning_rate": "0.0001"},
        {"method": "npo", "npo.beta": "0.5", "learning_rate": "1e-05"},
        {"method": "npo", "npo.beta": "0.5", "learning_rate": "0.0001"},
        {"method": "rmu", "learning_rate": "1e-05"},
        {"method": "rmu", "learning_rate": "0.0001"},
    ]


def test_what_names_methods_is_chosen_first_wherever_it_stands() -> None:
    space = Space.read({"npo.beta": [1, 2], "method": ["npo", "rmu"]}, {})
    assert [*space.grid()] == [
        {"method": "npo", "npo.beta": "1"},
        {"method": "npo", "npo.beta": "2"},
        {"method": "rmu"},
    ]


def test_a_method_of_all_runs_may_own_settings() -> None:
    assert len([*Space.read({"npo.beta": [1, 2]}, {"method": "npo"}).grid()]) == 2


@given(st.integers(0, 10_000), st.integers(0, 50))
def test_a_drawn_point_is_of_the_space_and_always_the_same(number: int, seed: int) -> None:
    space = Space.read(
        {
            "method": ["npo", "rmu"],
            "npo.beta": {"low": 0.01, "high": 1, "log": True},
            "epochs": {"low": 1, "high": 5, "whole": True},
            "gamma": {"low": 0.0, "high": 2.0},
        },
        {},
    )
    point = space.drawn(number, seed)
    space.check(point)
    assert point == space.drawn(number, seed)
    assert ("npo.beta" in point) == (point["method"] == "npo")


def test_draws_differ_by_number_and_by_seed() -> None:
    space = Space.read({"gamma": {"low": 0.0, "high": 1.0}}, {})
    assert len({space.drawn(number, seed)["gamma"] for number in range(10) for seed in range(3)}) == 30


@pytest.mark.parametrize("log", [False, True])
def test_every_whole_number_of_a_range_is_drawn(log: bool) -> None:
    numbers = random.Random(0)
    drawn = [Range(1, 4, log=log, whole=True).drawn(numbers) for _ in range(2000)]
    assert {*drawn} == {1, 2, 3, 4} and all(isinstance(one, int) for one in drawn)
    # By factors 1 is as likely as what lies between 0.5 and 1.5 is wide: log 3 of log 9.
    assert drawn.count(1) / 2000 == pytest.approx(0.5 if log else 0.25, abs=0.04)


def test_a_range_by_factors_has_half_of_its_draws_below_the_geometric_mean() -> None:
    numbers = random.Random(0)
    drawn = [Range(1e-6, 1e-2, log=True).drawn(numbers) for _ in range(2000)]
    assert sum(one < 1e-4 for one in drawn) / 2000 == pytest.approx(0.5, abs=0.04)


def test_corners_hold_every_value_once_at_least() -> None:
    space = Space.read({**SEARCH, "epochs": {"low": 1, "high": 3, "whole": True}}, {})
    corners = space.corners()
    seen = {(name, value) for point in corners for name, value in point.items()}
    assert seen == {
        ("method", "npo"),
        ("method", "rmu"),
        ("npo.beta", "0.1"),
        ("npo.beta", "0.5"),
        ("learning_rate", "1e-05"),
        ("learning_rate", "0.0001"),
        ("epochs", 1),
        ("epochs", 3),
    }
    for point in corners:
        space.check(point)
    assert {"method": "rmu", "learning_rate": "0.0001", "epochs": 1} in corners  # each value with each method
    assert Space.read({"method": ["npo", "rmu"]}, {}).corners() == [{"method": "npo"}, {"method": "rmu"}]


def test_settings_are_the_values_behind_the_labels() -> None:
    mask = {"attribution": "wagle", "ratio": 0.1}
    space = Space.read({"method": ["npo"], "npo.beta": [0.1], "mask": [None, mask], "gamma": {"low": 0, "high": 1}}, {})
    point = {"method": "npo", "npo.beta": "0.1", "mask": label(mask), "gamma": 0.25}
    assert space.settings(point) == {"method": "npo", "beta": 0.1, "mask": mask, "gamma": 0.25}
    assert space.settings({**point, "mask": "null"})["mask"] is None


def test_points_that_differ_by_their_seed_have_one_recipe() -> None:
    first = {"learning_rate": "1e-5", "seed": "0"}
    assert recipe(first) == recipe({"seed": "1", "learning_rate": "1e-5"})
    assert recipe(first) != recipe({**first, "learning_rate": "1e-4"})


@pytest.mark.parametrize(
    ("search", "fixed", "message"),
    [
        ({}, {}, "search names no setting"),
        ({"epochs": 3}, {}, "epochs needs a list of values, or a range"),
        ({"epochs": []}, {}, "epochs has an empty list"),
        ({"epochs": [1, 2, 1]}, {}, "epochs lists 1 twice"),
        ({"epochs": [1]}, {"epochs": 2}, "epochs is a setting of all runs and searched, too"),
        ({"epochs": {"low": 3}}, {}, "epochs needs a list of values, or a range"),
        ({"epochs": {"low": 3, "high": 3}}, {}, "low must be below high; got 3 and 3"),
        ({"epochs": {"low": float("nan"), "high": 3}}, {}, "low must be below high"),
        ({"epochs": {"low": 1, "high": float("inf")}}, {}, "must be a finite number"),
        ({"epochs": {"low": 0, "high": 3, "log": True}}, {}, "low must be above 0 where log is true"),
        ({"epochs": {"low": 0.5, "high": 3, "whole": True}}, {}, "low must be a whole number"),
        ({"epochs": {"low": 1, "high": 3, "steps": 4}}, {}, "no part of a range (for epochs) is called 'steps'"),
        ({"nop.beta": [1]}, {"method": "npo"}, "(for nop.beta) is called 'nop'. Did you mean 'npo'"),
        ({"npo.beta": [1], "beta": [2]}, {"method": "npo"}, "beta is searched for all, and for one method as well"),
        ({"method": {"low": 0, "high": 1}}, {}, "method needs a list of names"),
        ({"mask": [object()]}, {}, "a study holds numbers, texts, lists and mappings"),
    ],
)
def test_what_is_refused(search: dict[str, Any], fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpungeError) as caught:
        Space.read(search, fixed)
    assert message in str(caught.value)


def test_a_grid_takes_lists_alone() -> None:
    with pytest.raises(ExpungeError, match="gamma has a range"):
        Space.read({"gamma": {"low": 0, "high": 1}}, {}).grid()


@pytest.mark.parametrize(
    "point",
    [
        {"method": "npo", "learning_rate": "1e-05"},
        {"method": "rmu", "npo.beta": "0.1", "learning_rate": "1e-05"},
        {"method": "npo", "npo.beta": "0.2", "learning_rate": "1e-05"},
    ],
)
def test_points_of_other_spaces_are_refused(point: dict[str, Any]) -> None:
    with pytest.raises(ExpungeError):
        Space.read(SEARCH, {}).check(point)
