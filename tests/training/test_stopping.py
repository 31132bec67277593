"""Conditions and rules that end a run."""

import pytest
from torch import nn

from expunge.core.checks import ExpungeError
from expunge.training.stopping import Condition, NoValue, Rule, described, when_all


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("a<=0.1", 0.1, True),
        ("a<0.1", 0.1, False),
        ("a >= 0.5", 0.6, True),
        ("a>0.5", 0.5, False),
    ],
)
def test_conditions(text: str, value: float, holds: bool) -> None:
    assert Condition.read(text).holds({"a": value}) is holds


def test_thresholds_may_be_levels_measured_before() -> None:
    condition = Condition.read("forget_ma<=unseen_ma", {"unseen_ma": 0.3})
    assert condition == Condition("forget_ma", "<=", 0.3) and str(condition) == "forget_ma<=0.3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=0.1", "is not a condition, such as"),
        ("a<=b", "no level to stop at is called 'b'"),
        ("a<=nan", "must be a finite number"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExpungeError, match=message):
        Condition.read(text)


def test_all_conditions_must_hold_at_once() -> None:
    model = nn.Linear(1, 1)
    values, asked = {"el": 0.05, "ma": 0.4}, []

    def measure(_: nn.Module, name: str) -> float:
        asked.append(name)
        return values[name]

    rule = when_all([Condition.read("ma<=0.3"), Condition.read("el<=0.1")], measure)
    assert rule(model, 4) is None and asked == ["ma"]  # the first that does not hold spares the others
    values |= {"el": 0.2, "ma": 0.2}
    assert rule(model, 5) is None
    values["el"] = 0.05
    assert rule(model, 6) == "step 6: ma 0.2 (wanted <=0.3), el 0.05 (wanted <=0.1)"
    with pytest.raises(ExpungeError, match="at least one condition"):
        when_all([], measure)


def test_a_measure_without_a_value_is_told_and_not_taken_for_one_that_is_not_there() -> None:
    rule = when_all([Condition.read("ma<=0.3")], lambda model, name: float("nan"))
    with pytest.raises(NoValue, match="ma has no value, so whether ma<=0"):
        rule(nn.Linear(1, 1), 4)


def test_rules_are_described_by_what_they_say_or_by_their_name() -> None:
    class Asker:
        def __call__(self, model: nn.Module, step: int) -> str | None:
            return None

    def rule(model: nn.Module, step: int) -> str | None:
        return None

    here = "test_rules_are_described_by_what_they_say_or_by_their_name.<locals>"
    assert described(Rule(rule, {"conditions": ["a<=1"]})) == {"conditions": ["a<=1"]}
    assert described(rule) == f"{__name__}.{here}.rule" and described(Asker()) == f"{__name__}.{here}.Asker"
