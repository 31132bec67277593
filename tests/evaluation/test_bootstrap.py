"""Bootstrap intervals and the harmonic mean."""

import numpy as np
import pytest
from scipy import stats

from expunge.evaluation import bootstrap as statistics
from expunge.evaluation.bootstrap import bootstrap, harmonic_mean, interval, mean_interval, paired_interval


def test_the_interval_of_a_mean_equals_scipys():
    values = np.random.default_rng(0).exponential(1.0, 60)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert mean_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_draws_are_counts_of_examples():
    seen = []

    def statistic(one, other):
        seen.append((one, other))
        return one @ np.arange(3.0)

    found = bootstrap(statistic, [3, 5], resamples=50)
    one, other = seen[0]
    assert one.shape == (50, 3) and other.shape == (50, 5) and found.shape == (50,)
    assert (one.sum(1) == 3).all() and (other.sum(1) == 5).all() and one.min() >= 0
    assert one.std() > 0.3  # 3 draws of 3: counts vary


def test_the_interval_is_the_central_95_percent():
    # 0 to 1000: 2.5 % of 1000 lie below 25 and above 975
    assert statistics.percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))


def test_the_seed_decides():
    values = np.arange(7.0)
    again = [interval(lambda w: w @ values, [7]) for _ in range(2)]
    assert again[0] == again[1]
    assert not np.array_equal(bootstrap(lambda w: w @ values, [7]), bootstrap(lambda w: w @ values, [7], seed=1))


def test_constant_values_have_no_width():
    assert mean_interval(np.ones(37)) == (1.0, 1.0)


def test_many_examples_are_drawn_in_rounds(monkeypatch):
    monkeypatch.setattr(statistics, "_MOST_DRAWS", 40)
    sizes = []
    found = bootstrap(lambda w: (sizes.append(len(w)), w.sum(1))[1], [4], resamples=25)
    assert sizes == [10, 10, 5] and found.tolist() == [4.0] * 25


def test_harmonic_mean():
    assert harmonic_mean(np.array([1.0, 0.5])) == pytest.approx(2 / 3)  # 2 / (1 + 2)
    assert harmonic_mean(np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx([0, 0.5])


def test_paired_intervals_by_hand():
    # the two rise and fall together: the difference is 1 everywhere, though either mean is uncertain
    values = np.array([1.0, 5.0, 9.0])
    assert paired_interval(mean_interval(values + 1), mean_interval(values)) == pytest.approx((1, 1), abs=1e-12)
    # differences 1 and -3
    assert paired_interval(mean_interval(np.array([1.0, 0.0])), mean_interval(np.array([0.0, 3.0]))) == (-3, 1)
    # the difference of means is the mean of differences, draw by draw
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(30)
    assert paired_interval(mean_interval(a), mean_interval(b)) == pytest.approx(mean_interval(a - b), abs=1e-12)


def test_intervals_without_resamples_of_one_size_are_no_pair():
    values = np.array([1.0, 5.0, 9.0])
    assert paired_interval(mean_interval(values), (0.0, 1.0)) is None
    assert paired_interval(None, mean_interval(values)) is None
