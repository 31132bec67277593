"""Judging a metric by models that know and models that do not."""

import math

import numpy as np
import pytest

from expunge.core.checks import ExpungeError
from expunge.experiments._metrics.faithfulness import Z, auc_score_interval, faithfulness, separating
from expunge.results.metric_quality import Attacked, Judgment


def test_faithfulness_by_hand():
    # pairs: 0.9 beats both, 0.4 beats 0.1 and ties 0.4: (2 + 1.5) / 4
    assert faithfulness([0.9, 0.4], [0.1, 0.4]) == 0.875
    assert faithfulness([1, 2], [0.5]) == 1 and faithfulness([0.5], [1, 2]) == 0


def test_faithfulness_of_swapped_groups_is_the_rest():
    rng = np.random.default_rng(0)
    knowing, ignorant = rng.normal(0.3, 1, 7).tolist(), rng.normal(0, 1, 5).tolist()
    assert faithfulness(knowing, ignorant) == pytest.approx(1 - faithfulness(ignorant, knowing))


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 0.875, 0.97, 1.0])
def test_the_bounds_lie_where_the_score_test_rejects(value):
    low, high = auc_score_interval(value, 6, 8)
    assert 0 <= low <= value <= high <= 1
    for bound in {low, high} - {0.0, 1.0}:
        # Hanley and McNeil's variance with the mean group size 7, written with Q1 and Q2
        q1, q2 = bound / (2 - bound), 2 * bound**2 / (1 + bound)
        variance = (bound * (1 - bound) + 6 * (q1 - bound**2) + 6 * (q2 - bound**2)) / 48
        assert abs(value - bound) == pytest.approx(Z * math.sqrt(variance), abs=1e-6)


def test_perfect_separation_of_few_models_is_no_certainty():
    low, high = auc_score_interval(1.0, 6, 6)
    assert 0.6 < low < 0.75 and high == 1
    assert auc_score_interval(1.0, 60, 60)[0] > low
    assert auc_score_interval(0.0, 6, 6) == pytest.approx((0.0, 1 - low))


def test_the_threshold_separates_best():
    assert separating([0.8, 0.9], [0.1, 0.4]) == pytest.approx(0.6)
    # one ignorant model at 0.85: above 0.6 both known are told right and 2 of 3 ignorant; above 0.875 1 of 2 and all 3
    assert separating([0.8, 0.9], [0.1, 0.4, 0.85]) == pytest.approx(0.6)
    assert separating([0.1], [0.9]) == -math.inf


@pytest.mark.parametrize("groups", [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_no_judgment_without_numbers(groups):
    with pytest.raises(ExpungeError, match="needs a number for each"):
        faithfulness(*groups)


def _attacked(r: float, q: float, left_out: str = "") -> Attacked:
    return Attacked(
        model="m", before=0, relearned=0, quantized={4: 0}, resistance=r, stability={4: q}, left_out=left_out
    )


def _judgment(*attacked: Attacked) -> Judgment:
    return Judgment(
        metric="m", knowing={}, ignorant={}, faithfulness=0.9, interval=(0.5, 1), threshold=0, attacked=attacked
    )


def test_scores_are_means_over_the_models_that_count():
    # R = (0.5 + 1) / 2, Q = (1 + 0.5) / 2, harmonic mean 0.75; with 0.9: 2 * 0.75 * 0.9 / 1.65
    found = _judgment(_attacked(0.5, 1), _attacked(1, 0.5), _attacked(0, 0, "useless"))
    assert found.resistance == 0.75 and found.stability(4) == 0.75 and found.robustness == pytest.approx(0.75)
    assert found.overall == pytest.approx(2 * 0.75 * 0.9 / 1.65)
    assert _judgment(_attacked(0, 1)).robustness == 0
    assert _judgment(_attacked(1, 1, "useless")).overall is None
