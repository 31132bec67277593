"""Checks: what they let through, and what their errors say."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.core.checks import (
    ExpungeError,
    nearest,
    require,
    require_at_least,
    require_between,
    require_positive,
    unknown,
)

METHODS = ["dpo", "grad_ascent", "grad_diff", "npo", "simnpo"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("npo", ["npo"]),
        ("nop", ["npo"]),
        ("NPO", ["npo"]),
        ("grad-diff", ["grad_diff"]),
        ("ascent", ["grad_ascent"]),  # a part of a name
        ("my_own_dpo_variant", ["dpo"]),  # a name is part of it
        ("quantum", []),
        ("", []),
    ],
)
def test_nearest(asked: str, found: list[str]) -> None:
    assert nearest(asked, METHODS) == found


def test_initials_are_known() -> None:
    assert nearest("lr", ["seed", "learning_rate", "layer"]) == ["learning_rate"]


def test_nearest_gives_as_many_as_asked_best_first() -> None:
    # Ratios of matching letters, 2 x common / all: "npo" 6/7, "tnpo" 6/8, "dpo" 4/7 (below 0.6).
    assert nearest("npoo", ["dpo", "tnpo", "npo"], n=3) == ["npo", "tnpo"]
    assert nearest("npoo", ["dpo", "tnpo", "npo"]) == ["npo"]


def test_unknown_says_what_was_asked_where_it_came_from_and_what_there_is() -> None:
    error = unknown("unlearning method", "nop", reversed(METHODS), came_from="run.yaml, line 3")
    assert str(error) == (
        "no unlearning method is called 'nop' (from run.yaml, line 3). Did you mean 'npo'? "
        "Known: dpo, grad_ascent, grad_diff, npo, simnpo."
    )
    assert isinstance(error, ExpungeError) and isinstance(error, ValueError)


def test_unknown_without_anything_near_or_known() -> None:
    assert str(unknown("method", "quantum", [])) == "no method is called 'quantum'. Known: none."


def test_require() -> None:
    require(True, "never said")
    with pytest.raises(ExpungeError, match=r"^said$"):
        require(False, "said")


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (lambda v: require_positive("beta", v, hint="Use 0.1."), 1e-9, 0, "beta must be above 0; got 0. Use 0.1."),
        (lambda v: require_positive("beta", v), 1e300, -1.5, "beta must be above 0; got -1.5."),
        (lambda v: require_at_least("n", v, 1), 1, 0, "n must be at least 1; got 0."),
        (lambda v: require_at_least("n", v, 1, hint="Rows."), 2, 0.5, "n must be at least 1; got 0.5. Rows."),
        (lambda v: require_between("p", v, 0, 1), 0, -0.1, "p must be between 0 and 1; got -0.1."),
        (lambda v: require_between("p", v, 0, 1, hint="A share."), 1, 2, "p must be between 0 and 1; got 2. A share."),
    ],
)
def test_numbers(check: Callable[[float], None], good: float, bad: float, message: str) -> None:
    check(good)
    with pytest.raises(ExpungeError) as caught:
        check(bad)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "check",
    [
        lambda v: require_positive("x", v),
        lambda v: require_at_least("x", v, 0),
        lambda v: require_between("x", v, 0, 1),
    ],
)
def test_nan_never_passes(check: Callable[[float], None]) -> None:
    with pytest.raises(ExpungeError, match="got nan"):
        check(math.nan)


@given(st.text())
def test_any_name_gets_an_answer(name: str) -> None:
    assert str(unknown("method", name, METHODS)).endswith("Known: dpo, grad_ascent, grad_diff, npo, simnpo.")
