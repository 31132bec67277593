"""Probability of the right answer among right and wrong ones."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics._views import TINY, chance, direction, in_order, mean_measure, per_example, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

_TEXTS = {
    "mean": "mean over examples of p / (p + sum of the wrong answers' p + 1e-10), each p length-normalized",
    "summed": (
        "mean over examples of p / (p + sum of the wrong answers' p), each p the product of its tokens' probabilities, "
        "end token included"
    ),
    "no_end": (
        "mean over examples of p / (p + sum of the wrong answers' p), each p length-normalized, the closing end token "
        "left out"
    ),
}

DEFINITION = Definition(text=_TEXTS["mean"], source="TOFU, arXiv:2401.06121", better=None, mean=True)


def probability_normalized(
    correct: Records, wrong: Records, *, form: str = "mean", better: Direction | None = None
) -> Measure:
    """Mean over examples of the right answer's share of the probability of all answers, in [0, 1].

    Args:
        correct: the right answer of each example.
        wrong: its wrong answers, one row each.
        form: p of an answer: `mean` (TOFU's: exp of its tokens' mean log-probability, end token included), `summed`
            (exp of their sum) or `no_end` (as `mean`, the closing end token left out). A chat model seldom ends after a
            bare answer, and longer answers have the better means: both can hide in `mean` what it knows.
        better: direction; None: lower on the forget set, higher elsewhere.

    Returns:
        The mean share, with chance in `details`: the share where all answers of an example are equally probable.

    Raises:
        ExpungeError: no rows, an example with only one of the two, an unknown form, or no token log-probabilities for
            one that needs them.

    Source: TOFU, arXiv:2401.06121. Departures: none; `summed` and `no_end` are variants of ours.
    """
    require_rows(correct=correct, wrong=wrong)
    if form not in _TEXTS:
        raise ExpungeError(f"the normalized probability's form must be one of {', '.join(_TEXTS)}; got {form!r}.")
    definition, level = replace(DEFINITION, text=_TEXTS[form]), chance(correct, wrong)
    if form != "mean":
        definition = replace(definition, source=f"{DEFINITION.source}, with another p")
    values = normalized_probabilities(correct, wrong) if form == "mean" else _shares(correct, wrong, form)
    found = mean_measure(definition, values, better=direction(correct, better), details={"chance": level})
    if form == "mean" and found.interval is not None and found.interval[0] <= level:
        return replace(
            found,
            note="No better than chance, which need not mean that nothing is known: the lengths of the answers and the "
            "end token weigh in. The same by other forms: the measures of this name with _summed and _no_end.",
        )
    return found


def normalized_probabilities(correct: Records, wrong: Records) -> Float[np.ndarray, " n"]:
    """P / (p + sum_k p_wrong,k + 1e-10) of each example, in order of index."""
    correct, wrong = in_order(correct), in_order(wrong)
    right, others = correct.probabilities(), wrong.probabilities()
    total = np.array([others[rows].sum() for rows in per_example(correct, wrong, names=("correct", "wrong"))])
    return np.asarray(right / (right + total + TINY))


def _shares(correct: Records, wrong: Records, form: str) -> Float[np.ndarray, " n"]:
    """P / (p + sum_k p_wrong,k) of each example, in order of index; by logarithms, since a product may underflow."""
    correct, wrong = in_order(correct), in_order(wrong)
    right, others = _log_probabilities(correct, form), _log_probabilities(wrong, form)
    groups = per_example(correct, wrong, names=("correct", "wrong"))
    total = [logsumexp([own, *others[rows]]) for own, rows in zip(right, groups, strict=True)]
    return np.asarray(np.exp(right - np.array(total)))


def _log_probabilities(records: Records, form: str) -> Float[np.ndarray, " rows"]:
    if not records.has("logprobs"):
        raise ExpungeError(f"the form '{form}' needs token log-probabilities, which these records lack.")
    if form == "summed":
        return np.array([values.sum() for values in records.arrays("logprobs")])
    return np.array([values.mean() for values in records.bodies("logprobs")])
