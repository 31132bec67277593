"""Probability of the right answer among right and wrong ones."""

import numpy as np
from jaxtyping import Float

from expunge.evaluation.metrics._views import TINY, direction, in_order, mean_measure, per_example, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="mean over examples of p / (p + sum of the wrong answers' p + 1e-10), each p length-normalized",
    source="TOFU, arXiv:2401.06121",
    better=None,
    mean=True,
)


def probability_normalized(correct: Records, wrong: Records, *, better: Direction | None = None) -> Measure:
    """Mean over examples of the right answer's share of the probability of all answers, in [0, 1].

    Args:
        correct: the right answer of each example.
        wrong: its wrong answers, one row each.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or an example with only one of the two.

    Source: TOFU, arXiv:2401.06121. Departures: none.
    """
    require_rows(correct=correct, wrong=wrong)
    return mean_measure(DEFINITION, normalized_probabilities(correct, wrong), better=direction(correct, better))


def normalized_probabilities(correct: Records, wrong: Records) -> Float[np.ndarray, " n"]:
    """P / (p + sum_k p_wrong,k + 1e-10) of each example, in order of index."""
    correct, wrong = in_order(correct), in_order(wrong)
    right, others = correct.probabilities(), wrong.probabilities()
    total = np.array([others[rows].sum() for rows in per_example(correct, wrong, names=("correct", "wrong"))])
    return np.asarray(right / (right + total + TINY))
