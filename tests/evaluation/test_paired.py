"""Paired tests over seeds, by hand and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from expunge.core.checks import ExpungeError
from expunge.evaluation.paired import paired


def test_by_hand():
    # differences 1, 2, 3: mean 2, std 1, t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees: p = .0742
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.difference == found.absolute == 2 and found.seeds == 3
    assert found.means == (4, 2) and found.stds == (2, 1)
    assert found.t_p == pytest.approx(0.07418, abs=1e-5)
    assert found.flip_p == 0.25  # of the 8 ways +++ and --- alone are as far from 0


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
    with pytest.raises(ExpungeError, match="one number a seed"):
        paired([1.0], [])
    with pytest.raises(ExpungeError, match="one number a seed"):
        paired([math.nan], [1.0])
