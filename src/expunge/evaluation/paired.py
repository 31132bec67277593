"""Paired comparison over few seeds: does one condition differ from the other?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from expunge.core.checks import ExpungeError

MOST_EXACT = 20
"""Pairs up to which all sign flips are counted."""


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


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two conditions that share their seeds.

    The sign-flip test asks for the share of the 2 ** n ways of swapping the two conditions within seeds whose mean
    difference is at least as large in size as the one seen.

    Args:
        first: the measure under one condition, one value a seed.
        second: under the other, in the same order of seeds.

    Raises:
        ExpungeError: no pair, unlike numbers, a value that is no number, or over 20 pairs.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not len(a) or len(a) != len(b) or not np.isfinite([*a, *b]).all():
        raise ExpungeError(f"a paired comparison needs one number a seed on both sides; got {len(a)} and {len(b)}.")
    if len(a) > MOST_EXACT:
        raise ExpungeError(f"all sign flips of {len(a)} pairs are too many to count; {MOST_EXACT} are the most.")
    d = a - b
    several = len(d) > 1
    varies = several and float(d.std(ddof=1)) > 0
    signs = np.array(list(product((1, -1), repeat=len(d))))
    # Equal up to rounding counts as equal: the unswapped case must count itself.
    extreme = np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)
    return Paired(
        seeds=len(d),
        means=(float(a.mean()), float(b.mean())),
        stds=(float(a.std(ddof=1)), float(b.std(ddof=1))) if several else (float("nan"), float("nan")),
        difference=float(d.mean()),
        absolute=float(np.abs(d).mean()),
        t_p=float(stats.ttest_rel(a, b).pvalue) if varies else float("nan"),
        flip_p=float(extreme.mean()),
    )
