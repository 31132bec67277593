"""Truth ratio: how likely wrong answers are compared with the right one."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics._views import TINY, direction, in_order, mean_measure, per_example, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

_RATIO = "t = geometric mean of the wrong answers' p / (right answer's p + 1e-10), each p length-normalized"
_TEXTS = {
    "closer_to_1": f"mean over examples of min(t, 1 / (t + 1e-10)), {_RATIO}",
    "true_better": f"mean over examples of max(0, 1 - t), {_RATIO}",
    "prob_mean": "mean over examples of p / (p + p_wrong + 1e-10), p_wrong the geometric mean of the wrong answers' p",
}

DEFINITION = Definition(
    text=_TEXTS["closer_to_1"],
    source="TOFU, arXiv:2401.06121",
    better="higher",
    reads=("logprobs", "avg_loss", "truth_ratio"),
)


def truth_ratio(
    correct: Records, wrong: Records, *, aggregate: str = "closer_to_1", better: Direction | None = None
) -> Measure:
    """Truth ratio t of each example, and one of three aggregates, each in [0, 1].

    Args:
        correct: the right answer of each example: the paraphrased one on forget and retain, the plain one where there
            is none.
        wrong: its wrong answers, one row each.
        aggregate: `closer_to_1` (forget set: a model that cannot distinguish right from wrong has 1), `true_better`
            (retain set: a model that prefers the right answer has 1) or `prob_mean` (higher = knows more).
        better: direction; None: higher, for `prob_mean` lower on the forget set and higher elsewhere.

    Returns:
        The aggregate; `per_example` holds t itself, for `prob_mean` its terms.

    Raises:
        ExpungeError: no rows, an example with only one of the two, or an unknown aggregate.

    Source: TOFU, arXiv:2401.06121; `prob_mean`: open-unlearning, arXiv:2506.12618. Departures: one of TOFU's two
    scripts takes the arithmetic mean over wrong answers; here it is the geometric mean throughout.
    """
    require_rows(correct=correct, wrong=wrong)
    if aggregate not in _TEXTS:
        raise ExpungeError(f"the truth ratio's aggregate must be one of {', '.join(_TEXTS)}; got {aggregate!r}.")
    ratios, note = truth_ratios(correct, wrong), unreadable(correct, wrong)
    definition = replace(DEFINITION, text=_TEXTS[aggregate])
    if aggregate == "prob_mean":
        definition = replace(definition, source="open-unlearning, arXiv:2506.12618")
        return mean_measure(definition, _shares(correct, wrong), better=direction(correct, better), note=note)
    terms = closer_to_1(ratios) if aggregate == "closer_to_1" else true_better(ratios)
    found = mean_measure(definition, terms, better=better or "higher", note=note)
    return replace(found, per_example=tuple(ratios.tolist()))


def truth_ratios(correct: Records, wrong: Records) -> Float[np.ndarray, " n"]:
    """T of each example, in order of index: exp(-mean_k loss(wrong_k)) / (exp(-loss(correct)) + 1e-10).

    As the log has it where one holds no losses.
    """
    if not correct.has("logprobs") and not correct.has("avg_loss") and correct.has("truth_ratio"):
        return in_order(correct).numbers("truth_ratio")
    right, others = _probabilities(correct, wrong)
    return np.asarray(others / (right + TINY))


def unreadable(correct: Records, wrong: Records) -> str:
    """What to say where a model gives neither right nor wrong answers any probability; empty where it does.

    The 1e-10 in the ratio then decides alone: it makes t 0, as if right answers were preferred.
    """
    if not correct.has("logprobs") and not correct.has("avg_loss"):
        return ""
    right, others = _probabilities(correct, wrong)
    vanished = np.mean((right < TINY) & (others < TINY))
    if not vanished:
        return ""
    return (
        f"In {vanished:.0%} of the examples right and wrong answers alike have a probability below 1e-10: this says "
        "nothing about which of them the model prefers."
    )


def closer_to_1(ratios: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """min(t, 1 / (t + 1e-10))."""
    return np.asarray(np.minimum(ratios, 1 / (ratios + TINY)))


def true_better(ratios: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """max(0, 1 - t)."""
    return np.asarray(np.maximum(0, 1 - ratios))


def _shares(correct: Records, wrong: Records) -> Float[np.ndarray, " n"]:
    right, others = _probabilities(correct, wrong)
    return np.asarray(right / (right + others + TINY))


def _probabilities(correct: Records, wrong: Records) -> tuple[np.ndarray, np.ndarray]:
    """P of each right answer and geometric mean p of its wrong ones, in order of index."""
    correct, wrong = in_order(correct), in_order(wrong)
    losses = wrong.mean_losses()
    groups = per_example(correct, wrong, names=("correct", "wrong"))
    # A log may hold the loss that its own truth ratio came from, of another pass than the answer's.
    right = correct.numbers("truth_ratio_loss") if correct.has("truth_ratio_loss") else correct.mean_losses()
    return np.exp(-right), np.exp([-losses[rows].mean() for rows in groups])
