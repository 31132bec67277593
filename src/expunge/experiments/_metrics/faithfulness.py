"""Judging a metric by a pool of models of which some know and some do not: which numbers deserve trust?"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics.mia import auc

Z = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""


def faithfulness(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """AUC in [0, 1]: how often a model that knows has the higher value than one that does not, ties counted half.

    Args:
        knowing: a metric (higher = knows more) of models that were trained on the knowledge, one value a model.
        ignorant: the same of models that were not.

    Raises:
        ExpungeError: no model on one side, or a value that is no number.

    Source: arXiv:2506.12618.
    """
    _check(knowing, ignorant)
    return auc(np.asarray(ignorant, dtype=np.float64), np.asarray(knowing, dtype=np.float64))


def auc_score_interval(value: float, n: int, m: int) -> tuple[float, float]:
    """95 % score interval of an AUC over n and m independent models.

    A bootstrap over a few models that a metric separates perfectly has no width; this has. Its bounds are the AUCs A
    with |value - A| = z sqrt(V(A)), V(A) = A (1 - A) (1 + (N - 1) ((1 - A) / (2 - A) + A / (1 + A))) / (n m),
    N = (n + m) / 2.

    Source: Newcombe 2006, Statistics in Medicine 25:559, method 5.
    """
    mean = (n + m) / 2

    def distance(a: float) -> float:
        variance = a * (1 - a) * (1 + (mean - 1) * ((1 - a) / (2 - a) + a / (1 + a))) / (n * m)
        return float((value - a) ** 2 - Z**2 * variance)

    low = 0.0 if value <= 0 else float(brentq(distance, 0.0, value - _STEP * value))
    high = 1.0 if value >= 1 else float(brentq(distance, value + _STEP * (1 - value), 1.0))
    return low, high


_STEP = 1e-9  # off the value itself, where the distance is below 0; at 0 and 1 it is not


def separating(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """The threshold above which a model counts as knowing, at the best mean of the two groups' accuracies.

    It is half way between two neighboring values; of several equally good ones, the lowest counts. Minus infinity
    where no threshold beats taking every model for a knowing one.

    Args:
        knowing: values of models that know, higher = knows more.
        ignorant: values of models that do not.
    """
    _check(knowing, ignorant)
    values = sorted({*knowing, *ignorant})
    candidates = [-np.inf, *((a + b) / 2 for a, b in pairwise(values))]
    right = [np.mean(np.array(knowing) > c) + np.mean(np.array(ignorant) <= c) for c in candidates]
    return float(candidates[int(np.argmax(right))])


def _check(knowing: Sequence[float], ignorant: Sequence[float]) -> None:
    if not len(knowing) or not len(ignorant) or not np.isfinite([*knowing, *ignorant]).all():
        raise ExpungeError(
            f"judging a metric needs a number for each of some models that know and some that do not; got "
            f"{list(knowing)} and {list(ignorant)}."
        )
