"""Shares of facts and their differences, against hand-worked values and a simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.report.paired import Paired, paired, share_interval, wilson

COUNTS = st.integers(0, 30)


def test_the_four_counts() -> None:
    assert paired([True, True, False, False, True], [True, False, True, False, False]) == Paired(1, 2, 1, 1)


def test_wilson_by_hand() -> None:
    # 8 of 10: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z² = 3.841459
    z2 = 3.841458820694124
    half = math.sqrt(z2) * math.sqrt(0.8 * 0.2 / 10 + z2 / 400)
    expected = ((0.8 + z2 / 20 - half) / (1 + z2 / 10), (0.8 + z2 / 20 + half) / (1 + z2 / 10))
    assert wilson(8, 10) == pytest.approx(expected, abs=1e-12)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1


def test_the_interval_of_a_share_is_exact() -> None:
    assert share_interval(0, 6) == pytest.approx((0.0, 1 - 0.025 ** (1 / 6)))  # P(0 of 6) = (1 - p)^6 = 0.025
    assert share_interval(6, 6) == pytest.approx((0.025 ** (1 / 6), 1.0))
    assert share_interval(1, 1) == pytest.approx((0.025, 1.0))
    low, high = share_interval(2, 8)  # P(at most 2 of 8 | high) = 0.025 = P(at least 2 of 8 | low)
    assert sum(math.comb(8, k) * high**k * (1 - high) ** (8 - k) for k in range(3)) == pytest.approx(0.025)
    assert sum(math.comb(8, k) * low**k * (1 - low) ** (8 - k) for k in range(2, 9)) == pytest.approx(0.025)


def test_mcnemar_by_hand() -> None:
    # 5 changed one way, 1 the other: 2 (C(6,0) + C(6,1)) / 2^6 = 14/64
    assert Paired(3, 5, 1, 2).p == pytest.approx(14 / 64)
    assert Paired(3, 1, 5, 2).p == pytest.approx(14 / 64)
    assert Paired(0, 6, 0, 0).p == pytest.approx(2 / 64)
    assert Paired(7, 0, 0, 4).p == 1


def test_the_interval_by_hand() -> None:
    # a=20 both, b=2 after alone, c=8 before alone, d=10 neither: p1 = 22/40, p2 = 28/40, difference -0.15.
    found = Paired(both=20, before=8, after=2, neither=10)
    (l1, u1), (l2, u2) = wilson(22, 40), wilson(28, 40)
    phi = (20 * 10 - 2 * 8 - 20) / math.sqrt(22 * 18 * 28 * 12)
    low = -0.15 - math.sqrt((0.55 - l1) ** 2 - 2 * phi * (0.55 - l1) * (u2 - 0.7) + (u2 - 0.7) ** 2)
    high = -0.15 + math.sqrt((u1 - 0.55) ** 2 - 2 * phi * (u1 - 0.55) * (0.7 - l2) + (0.7 - l2) ** 2)
    assert found.difference == pytest.approx(-0.15)
    assert found.interval == pytest.approx((low, high))


def test_where_all_facts_agree_the_interval_still_has_a_width() -> None:
    low, high = Paired(0, 40, 0, 0).interval  # all known before, none after
    assert low == pytest.approx(-1) and -0.95 < high < -0.8


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_exchanging_before_and_after_turns_the_interval_round(a: int, b: int, c: int, d: int) -> None:
    if a + b + c + d == 0:
        return
    found, other = Paired(a, b, c, d), Paired(a, c, b, d)
    low, high = found.interval
    assert -1 - 1e-9 <= low <= found.difference + 1e-12 and found.difference - 1e-12 <= high <= 1 + 1e-9
    assert other.interval == pytest.approx((-high, -low))
    assert found.reversed.difference == pytest.approx(-found.difference)
    assert found.reversed.interval == pytest.approx((-high, -low))
    assert found.reversed.p == found.p == other.p


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    chances = [0.3, 0.25, 0.1, 0.35]  # the true difference is 0.1 - 0.25
    held = 0
    for counts in draw.multinomial(60, chances, size=400):
        low, high = Paired(*map(int, counts)).interval
        held += low <= -0.15 <= high
    assert 0.92 <= held / 400 <= 0.98
