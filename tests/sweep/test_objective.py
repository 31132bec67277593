"""The order under constraints: kept before broken, the least broken before others, then the objective."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.core.checks import ExpungeError
from expunge.results.measures import Measure
from expunge.sweep.objective import (
    Constraint,
    Objective,
    Standing,
    averaged,
    best,
    direction_of,
    front,
    read_objective,
    standing,
)

START = {"kept": 0.8, "known": 0.9}


@pytest.mark.parametrize(
    ("text", "read", "bound"),
    [
        ("kept >= 0.95 of start", Constraint("kept", True, 0.95, True), 0.76),
        ("kept>=95% of start", Constraint("kept", True, 0.95, True), 0.76),
        ("kept >= 95 % of start", Constraint("kept", True, 0.95, True), 0.76),
        ("kept >= 0.4", Constraint("kept", True, 0.4), 0.4),
        ("known <= 1e-1", Constraint("known", False, 0.1), 0.1),
        ("known <= 0.5 of start", Constraint("known", False, 0.5, True), 0.45),
    ],
)
def test_constraints_are_read(text: str, read: Constraint, bound: float) -> None:
    assert Constraint.read(text) == read == Constraint.read(str(read))
    assert read.bound(START) == pytest.approx(bound)


@pytest.mark.parametrize("text", ["", "kept", "kept > 0.4", "kept >= much", "kept >= 1e999", "kept >= 1.2.3", ">= 0.4"])
def test_what_is_no_constraint(text: str) -> None:
    with pytest.raises(ExpungeError, match=r"is none, such as 'utility >= 0\.95 of start'"):
        Constraint.read(text)


def test_violations_by_hand() -> None:
    at_least, at_most = Constraint.read("kept >= 0.95 of start"), Constraint.read("known <= 0.1")
    assert at_least.violation({"kept": 0.7}, START) == pytest.approx(0.06)
    assert at_least.violation({"kept": 0.78}, START) == pytest.approx(-0.02)
    assert at_most.violation({"known": 0.3}, START) == pytest.approx(0.2)
    assert at_most.violation({"known": math.nan}, START) == math.inf
    both = standing({"kept": 0.7, "known": 0.3}, START, [Objective("known", "minimize")], [at_least, at_most])
    assert both.violation == pytest.approx(0.26) and both.losses == (0.3,)
    kept = standing({"kept": 0.8, "known": 0.05}, START, [Objective("kept", "maximize")], [at_least, at_most])
    assert kept == Standing(0.0, (-0.8,)) and kept.feasible


def test_what_keeps_a_constraint_at_its_edge_keeps_it() -> None:
    assert standing({"kept": 0.76}, START, [], [Constraint("kept", True, 0.76)]).feasible


def test_losses() -> None:
    assert Objective("auc", "near", 0.5).loss(0.2) == pytest.approx(0.3) == Objective("auc", "near", 0.5).loss(0.8)
    assert Objective("auc", "maximize").loss(0.2) == -0.2
    assert Objective("auc", "minimize").loss(math.nan) == math.inf


NUMBERS = st.tuples(
    st.sampled_from([0.0, 0.1, 0.2]), st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 1.0, 2.0])
)


def made(numbers: list[tuple[float, float, float]]) -> list[Standing]:
    """Not within a strategy: what checks the types there draws from chance."""
    return [Standing(violation, losses) for violation, *losses_ in numbers for losses in [tuple(losses_)]]


@given(st.lists(NUMBERS, min_size=1, max_size=12))
def test_the_best_by_definition(numbers: list[tuple[float, float, float]]) -> None:
    found = made(numbers)
    chosen = found[best(found)]
    if any(one.feasible for one in found):
        assert chosen.feasible
        assert chosen.losses == min(one.losses for one in found if one.feasible)
    else:
        assert chosen.violation == min(one.violation for one in found)


@given(st.lists(NUMBERS, min_size=1, max_size=12))
def test_the_front_by_definition(numbers: list[tuple[float, float, float]]) -> None:
    found = made(numbers)
    kept = [i for i, one in enumerate(found) if one.feasible]
    plain = [
        i
        for i in kept
        if not any(
            all(a <= b for a, b in zip(found[j].losses, found[i].losses, strict=True))
            and found[j].losses != found[i].losses
            for j in kept
        )
    ]
    assert sorted(front(found)) == plain
    assert bool(plain) == bool(kept)


@given(st.lists(NUMBERS, min_size=2, max_size=5))
def test_no_two_beat_each_other(numbers: list[tuple[float, float, float]]) -> None:
    found = made(numbers)
    for ours, theirs in itertools.permutations(found, 2):
        assert not (ours.beats(theirs) and theirs.beats(ours))
        if ours.beats(theirs):
            assert best([theirs, ours]) == 1


def test_of_equal_candidates_the_first_is_best() -> None:
    assert best([Standing(0.0, (1.0,)), Standing(0.0, (1.0,))]) == 0
    with pytest.raises(ExpungeError, match="no candidate yet"):
        best([])


def test_a_candidate_without_a_value_is_never_on_the_front() -> None:
    assert front([Standing(0.0, (math.inf,)), Standing(0.1, (0.0,))]) == []


def test_the_mean_over_seeds_keeps_a_constraint_where_every_seed_does() -> None:
    mean = averaged([Standing(0.0, (1.0, 2.0)), Standing(0.2, (3.0, 0.0))])
    assert mean == Standing(0.1, (2.0, 1.0)) and not mean.feasible
    assert averaged([Standing(0.0, (1.0,)), Standing(0.0, (2.0,))]).feasible


def measure(better: str, target: float | None = None) -> Measure:
    return Measure(value=0.3, better=better, definition="x", source="x", n=1, target=target)  # type: ignore[arg-type]


def test_directions() -> None:
    assert read_objective("minimize forget_rouge") == ("forget_rouge", "minimize")
    assert read_objective("minimize") == ("minimize", None)
    assert direction_of("m", None, measure("lower")) == Objective("m", "minimize")
    assert direction_of("m", None, measure("higher")) == Objective("m", "maximize")
    assert direction_of("m", "minimize", measure("higher")) == Objective("m", "minimize")
    assert direction_of("m", None, measure("near", 0.5)) == Objective("m", "near", 0.5)
    assert direction_of("recovery", None, None) == Objective("recovery", "minimize")
    assert direction_of("aues", None, None) == Objective("aues", "maximize")
    with pytest.raises(ExpungeError, match="'minimize m' or 'maximize m'"):
        direction_of("m", None, measure("neither"))
    with pytest.raises(ExpungeError, match="is none, such as 'recovery'"):
        read_objective("minimise forget rouge")
