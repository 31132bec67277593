"""Truth ratio and forget quality, by hand and against second implementations."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics import forget_quality as module
from expunge.evaluation.metrics.forget_quality import forget_quality, ks_test
from expunge.evaluation.metrics.truth_ratio import truth_ratio
from made_records import certain, view


def pair(correct, wrong):
    """Views of right answers and, for each, several wrong ones, by probability."""
    flat = [p for ps in wrong for p in ps]
    index = [i for i, ps in enumerate(wrong) for _ in ps]
    number = [k for ps in wrong for k in range(len(ps))]
    return (
        view(certain(*correct), answer="paraphrased"),
        view(certain(*flat, tokens=3), answer="perturbed", index=index, number=number),
    )


def test_a_model_that_gives_no_answer_any_probability_prefers_none():
    gone, some = pair([1e-13] * 4, [[1e-12]] * 4), ratios_pair([0.3, 0.6, 0.7, 0.8])
    kept = truth_ratio(*gone, aggregate="true_better")
    assert kept.value == pytest.approx(1, abs=0.02) and kept.note.startswith("In 100% of the examples right and wrong")
    quality = forget_quality(*gone, *some)
    assert quality.value < 0.05 and quality.note == kept.note
    assert truth_ratio(*some).note == "" and "still below" in forget_quality(*ratios_pair([0.1] * 4), *some).note


def ratios_pair(ratios):
    return pair([0.2] * len(ratios), [[0.2 * r] for r in ratios])


def test_by_hand():
    # geometric means of the wrong: sqrt(.1 * .4) = .2, sqrt(.9 * .4) = .6; t = .2/.4 = .5 and .6/.3 = 2
    correct, wrong = pair([0.4, 0.3], [[0.1, 0.4], [0.9, 0.4]])
    near = truth_ratio(correct, wrong)
    assert near.per_example == pytest.approx((0.5, 2.0))
    assert near.value == pytest.approx((0.5 + 1 / 2) / 2) and near.better == "higher"
    better = truth_ratio(correct, wrong, aggregate="true_better")
    assert better.value == pytest.approx((0.5 + 0) / 2) and better.per_example == pytest.approx((0.5, 2.0))
    # .4 / (.4 + .2) = 2/3 and .3 / (.3 + .6) = 1/3
    share = truth_ratio(correct, wrong, aggregate="prob_mean")
    assert share.value == pytest.approx(0.5) and share.per_example == pytest.approx((2 / 3, 1 / 3))
    assert share.better == "lower"
    assert len({near.definition, better.definition, share.definition}) == 3


def test_an_unknown_aggregate_is_refused():
    with pytest.raises(ExpungeError, match=r"closer_to_1, true_better, prob_mean; got 'mean'"):
        truth_ratio(*pair([0.4], [[0.1]]), aggregate="mean")


def test_forget_quality_against_itself_is_one():
    views = ratios_pair([0.3, 0.5, 0.9, 1.4])
    measure = forget_quality(*views, *views)
    assert measure.value == 1 and measure.details["D"] == 0 and measure.details["log10_p"] == 0
    assert measure.interval == (1.0, 1.0)


def test_forget_quality_of_samples_apart():
    # every truth ratio below every other: D = 1, p = 2 / C(8, 4) = 1/35
    low, high = ratios_pair([0.1, 0.2, 0.3, 0.4]), ratios_pair([1.1, 1.2, 1.3, 1.4])
    measure = forget_quality(*low, *high)
    assert measure.value == pytest.approx(2 / math.comb(8, 4))
    assert measure.details["D"] == 1 and measure.details["n_model"] == measure.details["n_retain_model"] == 4
    assert measure.details["smallest_p_log10"] == pytest.approx(math.log10(2 / math.comb(8, 4)))
    assert "below" in measure.note
    assert "over-unlearned" in forget_quality(*high, *low).note


def test_forget_quality_of_ratios_that_spread_wider():
    # half far below, half far above: D = 1/2 on both sides, neither less nor more forgotten
    wide = ratios_pair([*(0.01 * k for k in range(1, 21)), *(9 + k for k in range(20))])
    narrow = ratios_pair([1 + 0.01 * k for k in range(40)])
    measure = forget_quality(*wide, *narrow)
    assert measure.details["D"] == 0.5 and measure.value < 0.05 and "both sides" in measure.note


def test_the_test_is_exact_and_two_sided():
    # all orders of 3 and 3 values are equally likely: p = share of them with a D at least as large
    from itertools import combinations

    a, b = np.array([0.1, 0.2, 0.5]), np.array([0.3, 0.6, 0.7])

    def statistic(x, y):
        return max(abs((x <= v).mean() - (y <= v).mean()) for v in (*x, *y))

    pooled = np.concatenate([a, b])
    all_d = [statistic(pooled[list(c)], np.delete(pooled, list(c))) for c in combinations(range(6), 3)]
    d, p = ks_test(a, b)
    assert d == pytest.approx(statistic(a, b))
    assert p == pytest.approx(np.mean([x >= d - 1e-12 for x in all_d]))
    assert p != pytest.approx(stats.ks_2samp(a, b, method="asymp").pvalue, rel=0.05)


@given(st.integers(1, 40), st.data())
def test_the_test_equals_scipys_where_that_is_exact(n, data):
    values = st.lists(st.integers(0, 30).map(float), min_size=n, max_size=n)
    a, b = (np.array(data.draw(values)) for _ in range(2))
    with warnings.catch_warnings(record=True) as rounded:  # where its p rounds to above 1, it takes the asymptotic one
        warnings.simplefilter("always")
        theirs = stats.ks_2samp(a, b, method="exact")
    d, p = ks_test(a, b)
    assert d == pytest.approx(theirs.statistic)
    assert p == (1 if rounded else pytest.approx(theirs.pvalue, rel=1e-9))


def test_the_smallest_p_of_large_samples():
    n = 200
    low, high = ratios_pair(np.linspace(0.1, 0.4, n).tolist()), ratios_pair(np.linspace(1.1, 1.4, n).tolist())
    measure = forget_quality(*low, *high)
    assert measure.value == pytest.approx(1.94e-119, rel=5e-3)
    assert measure.details["log10_p"] == pytest.approx(measure.details["smallest_p_log10"], rel=1e-9)


def test_the_logarithm_survives_where_p_does_not(monkeypatch):
    monkeypatch.setattr(module, "ks_test", lambda a, b: (1.0, 0.0))
    measure = forget_quality(*ratios_pair([0.1, 0.2]), *ratios_pair([1.1, 1.2]))
    # log10 2 - 2 * 1 * (2 * 2 / 4) * log10 e
    assert measure.value == 0
    assert measure.details["log10_p"] == pytest.approx(math.log10(2) - 2 * math.log10(math.e))


def test_the_interval_of_p_is_that_of_resampled_questions():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(-0.5, 0.5, 40), rng.lognormal(0, 0.5, 40)
    low, high = forget_quality(*ratios_pair(a.tolist()), *ratios_pair(b.tolist())).interval
    draws = np.random.default_rng(5).integers(40, size=(1000, 40))
    slow = [stats.ks_2samp(a[d], b[d], method="exact").pvalue for d in draws]
    assert math.log10(low) == pytest.approx(math.log10(np.quantile(slow, 0.025)), abs=0.7)
    assert math.log10(high) == pytest.approx(math.log10(np.quantile(slow, 0.975)), abs=0.4)


def test_other_questions_are_refused():
    with pytest.raises(ExpungeError, match=r"3 forget questions, those of the retain model 2"):
        forget_quality(*ratios_pair([0.1, 0.2, 0.3]), *ratios_pair([0.1, 0.2]))
