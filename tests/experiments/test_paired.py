"""Paired tests over seeds, by hand and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from expunge.core.checks import ExpungeError
from expunge.experiments._locality.paired import Paired
from expunge.experiments._locality.paired import paired as paired_within


def paired(first, second, margin=1.0) -> Paired:
    return paired_within(first, second, margin=margin)


def test_by_hand():
    # differences 1, 2, 3: mean 2, std 1, t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees: p = .0742
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.difference == found.absolute == 2 and found.seeds == 3
    assert found.means == (4, 2) and found.stds == (2, 1)
    assert found.t_p == pytest.approx(0.07418, abs=1e-5)
    assert found.flip_p == 0.25  # of the 8 ways +++ and --- alone are as far from 0
    # the 90 % interval with t(.95, 2) = 2.9200: 2 -+ 2.92 * 1 / sqrt 3 = 2 -+ 1.6859
    assert found.interval == pytest.approx((0.3141, 3.6859), abs=1e-4)


def test_equivalence_by_hand():
    """Two degrees of freedom, where Student's t has a closed form: P(T > t) = 1/2 - t / (2 sqrt(2 + t^2))."""
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], margin=4.0)
    # against -4: t = (2 + 4) sqrt 3 = 10.3923; against 4: t = (2 - 4) sqrt 3 = -3.4641: p = .0046 and .0371; the larger
    assert found.equivalence_p == pytest.approx(0.5 - 12**0.5 / (2 * 14**0.5)) == pytest.approx(0.03709, abs=1e-5)
    assert found.margin == 4
    # at the mean difference itself the nearer test is a coin's throw
    assert paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], margin=2.0).equivalence_p == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_equivalence_holds_where_the_interval_lies_within_the_margin(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 6)).tolist()
    low, high = paired(a, b).interval
    reach = max(-low, high)
    assert paired(a, b, margin=reach * 1.001).equivalence_p < 0.05 < paired(a, b, margin=reach * 0.999).equivalence_p
    assert paired(b, a, margin=reach).equivalence_p == pytest.approx(0.05)  # either way round


def test_a_margin_is_above_0():
    with pytest.raises(ExpungeError, match="margin must be above 0"):
        paired([1.0], [0.5], margin=0.0)


def test_absolute_differences_keep_their_size():
    found = paired([1.0, 0.0], [0.0, 1.0])
    assert found.difference == 0 and found.absolute == 1 and found.flip_p == 1


@pytest.mark.parametrize("seed", range(5))
def test_against_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 6))
    found = paired(a.tolist(), b.tolist())
    assert found.t_p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    exact = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=64,
    )
    assert found.flip_p == pytest.approx(exact.pvalue)


def test_what_has_no_t_test():
    assert math.isnan(paired([1.0], [0.5]).t_p) and paired([1.0], [0.5]).flip_p == 1
    assert math.isnan(paired([1.0, 2.0], [0.5, 1.5]).t_p)
    assert math.isnan(paired([1.0, 2.0], [0.5, 1.5]).equivalence_p)
    assert math.isnan(paired([0.9, 0.7], [0.8, 0.6]).t_p)  # both .1, up to rounding
    with pytest.raises(ExpungeError, match="one number a seed"):
        paired([1.0], [])
    with pytest.raises(ExpungeError, match="one number a seed"):
        paired([math.nan], [1.0])
