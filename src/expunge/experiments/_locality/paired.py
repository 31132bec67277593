"""Paired comparison over few seeds: does one condition differ from the other, or are the two equivalent?

A large p of the test for a difference is no evidence that there is none: that takes the test for equivalence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from expunge.core.checks import ExpungeError, require_positive

MOST_EXACT = 20
"""Pairs up to which all sign flips are counted."""
CONFIDENCE = 0.90
"""Of the interval of the mean difference: two one-sided tests at 5 % hold where it is within the margin."""


@dataclass(frozen=True)
class Paired:
    """One measure under two conditions, seed by seed."""

    seeds: int
    means: tuple[float, float]
    stds: tuple[float, float]
    """With n - 1; NaN for one seed."""
    difference: float
    """Mean over seeds of first - second."""
    absolute: float
    """Mean over seeds of |first - second|."""
    t_p: float
    """p of the two-sided paired t-test; NaN where it is undefined: one seed, or differences that do not vary."""
    flip_p: float
    """Exact p of the two-sided sign-flip permutation test of the mean difference; at least 2 / 2 ** seeds."""
    margin: float
    """Largest mean difference, either way, that counts as none."""
    interval: tuple[float, float]
    """90 % t-interval of the mean difference; NaN where the t-test is undefined."""
    equivalence_p: float
    """p of equivalence within the margin: the larger of two one-sided paired t-tests, one against a difference of
    -margin or less, one against +margin or more. NaN where the t-test is undefined."""


def paired(first: Sequence[float], second: Sequence[float], *, margin: float) -> Paired:
    """Compare two conditions that share their seeds.

    The sign-flip test asks for the share of the 2 ** n ways of swapping the two conditions within seeds whose mean
    difference is at least as large in size as the one seen. The test for equivalence (two one-sided t-tests, TOST)
    rejects a mean difference of at least `margin`; it does so at 5 % exactly where the 90 % interval is within
    -margin and +margin.

    Args:
        first: the measure under one condition, one value a seed.
        second: under the other, in the same order of seeds.
        margin: above 0, in the measure's own units; to be chosen before the values are seen.

    Raises:
        ExpungeError: no pair, unlike numbers, a value that is no number, over 20 pairs, or a margin not above 0.

    Source: Schuirmann 1987 (two one-sided tests).
    """
    require_positive("margin", margin)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not len(a) or len(a) != len(b) or not np.isfinite([*a, *b]).all():
        raise ExpungeError(f"a paired comparison needs one number a seed on both sides; got {len(a)} and {len(b)}.")
    if len(a) > MOST_EXACT:
        raise ExpungeError(f"all sign flips of {len(a)} pairs are too many to count; {MOST_EXACT} are the most.")
    d = a - b
    several = len(d) > 1
    # Differences that are equal up to rounding have no spread to test against.
    varies = several and float(d.std(ddof=1)) > 1e-12 * max(1.0, float(np.abs(d).max()))
    nan = float("nan")
    low, high = stats.ttest_1samp(d, 0).confidence_interval(CONFIDENCE) if varies else (nan, nan)
    sides = ((-margin, "greater"), (margin, "less"))
    signs = np.array(list(product((1, -1), repeat=len(d))))
    # Equal up to rounding counts as equal: the unswapped case must count itself.
    extreme = np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)
    return Paired(
        seeds=len(d),
        means=(float(a.mean()), float(b.mean())),
        stds=(float(a.std(ddof=1)), float(b.std(ddof=1))) if several else (nan, nan),
        difference=float(d.mean()),
        absolute=float(np.abs(d).mean()),
        t_p=float(stats.ttest_rel(a, b).pvalue) if varies else nan,
        flip_p=float(extreme.mean()),
        margin=margin,
        interval=(float(low), float(high)),
        equivalence_p=max(float(stats.ttest_1samp(d, at, alternative=way).pvalue) for at, way in sides)
        if varies
        else nan,
    )
