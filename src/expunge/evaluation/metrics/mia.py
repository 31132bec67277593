"""Membership inference: can the forget set be distinguished from text that was never trained on?"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from expunge.core.checks import require_between, unknown
from expunge.evaluation.bootstrap import interval
from expunge.evaluation.metrics._views import in_order, require_rows
from expunge.results.measures import DEFAULT_AUC, Definition, Measure
from expunge.results.records import FinalToken, Records

_TEXTS = {
    "loss": "mean token loss",
    "zlib": "mean token loss over the length of the zlib-compressed text",
    "min_k": "minus the mean of the lowest {percent:.0f} % of the token log-probabilities",
    "min_k_plus_plus": (
        "minus the mean of the lowest {percent:.0f} % of (log p - mean) / sqrt(max(variance, 1e-6)), mean and variance "
        "of log p over the vocabulary under p at the token's position"
    ),
    "grad_norm": "mean over parameter tensors of the 2-norm of the gradient of the mean token loss",
}
_SOURCES = {
    "loss": "Carlini et al. 2021, arXiv:2012.07805",
    "zlib": "Carlini et al. 2021, arXiv:2012.07805",
    "min_k": "Min-K %, arXiv:2310.16789",
    "min_k_plus_plus": "Min-K++, arXiv:2404.02936",
    "grad_norm": "open-unlearning, arXiv:2506.12618",
}
COLUMNS = {
    "loss": ("logprobs", "mia_loss"),
    "zlib": ("logprobs", "mia_zlib"),
    "min_k": ("logprobs", "mia_min_k"),
    "min_k_plus_plus": ("logprob_means", "mia_min_k_plus_plus"),
    "grad_norm": ("gradient_norm", "mia_gradnorm"),
}
"""What each score is computed from: a column of our records, or a log's own numbers."""

DEFINITION = Definition(
    text=(
        "AUC of a membership score: probability that a text never trained on scores higher (less like a member) than a "
        "forget text, plus half that of a tie; end token left out"
    ),
    source="arXiv:2012.07805, arXiv:2310.16789",
    better="near",
    reads=("logprobs", "mia_min_k"),
)

CHANCE = 0.5
LEAST_VARIANCE = 1e-6
_FAR = 0.9  # an AUC so far from the middle can be read without a reference


def mia(
    forget: Records,
    holdout: Records,
    reference_forget: Records | None = None,
    reference_holdout: Records | None = None,
    *,
    score: str = "min_k",
    k: float = 0.4,
    final_token: FinalToken = "by_rule",
) -> Measure:
    """AUC of telling forget texts (members) from texts never trained on; in [0, 1], best near the retain model's.

    Near 1: the forget set is recognizably memorized. Near 0: it looks less familiar than unseen text, over-unlearned.

    Args:
        forget: forget answers under the model.
        holdout: answers of the same kind that were never trained on; the retain set serves where there is none, but its
            texts are members too, and the caller must say so.
        reference_forget: the forget answers under the retain model; without it or the next the target is 0.5, and
            flagged.
        reference_holdout: the holdout answers under the retain model.
        score: `loss`, `zlib`, `min_k`, `min_k_plus_plus` (needs records with moments) or `grad_norm` (needs records
            with gradient norms). A score calibrated with another model is the metric `mia_reference`.
        k: share of the lowest token values that `min_k` and `min_k_plus_plus` average.
        final_token: as in `exact_memorization`; open-unlearning drops it for `min_k` and `min_k_plus_plus` only. It is
            no matter for `grad_norm`, which records hold by our rule.

    Returns:
        The AUC; its target is the retain model's AUC, or 0.5 without one. `per_example`: for each forget text the share
        of holdout texts that look less like members. `details`: the retain model's AUC and
        s_MIA = 1 - min(|AUC - AUC_retain| / AUC_retain, 1).

    Raises:
        ExpungeError: no rows, an unknown score, or k outside (0, 1].

    Source: Carlini et al. 2021 (loss, zlib); Shi et al., arXiv:2310.16789 (Min-K %); Zhang et al., arXiv:2404.02936
    (Min-K++); open-unlearning (gradient norm). Departures: the end token is left out of all scores; open-unlearning
    leaves it in for loss and zlib, and drops the last token of texts without one.
    """
    require_rows(forget=forget, holdout=holdout)
    members = scores(forget, score, k=k, final_token=final_token)
    others = scores(holdout, score, k=k, final_token=final_token)
    target = None
    if reference_forget is not None and reference_holdout is not None:
        target = auc(
            scores(reference_forget, score, k=k, final_token=final_token),
            scores(reference_holdout, score, k=k, final_token=final_token),
        )
    what = _TEXTS[score].format(percent=100 * k)
    definition = replace(DEFINITION, text=f"{DEFINITION.text}. Score: {what}", source=_SOURCES[score])
    return auc_measure(definition, members, others, target=target, stored=not forget.has(COLUMNS[score][0]))


def auc_measure(
    definition: Definition,
    members: Float[np.ndarray, " n"],
    others: Float[np.ndarray, " m"],
    *,
    target: float | None,
    stored: bool = False,
) -> Measure:
    """The AUC of membership scores, with interval, target and reading; `target` None: chance, and flagged."""
    wins = _wins(members, others)
    value, default = float(wins.mean()), target is None
    aim = CHANCE if target is None else target
    details = {"n_holdout": float(len(others)), "default_reference": float(default)}
    if target is not None:
        details["auc_retain_model"] = target
        # At AUC_retain = 0 the quotient's limit: any distance is as far as can be.
        details["s_mia"] = 1 - min(abs(value - target) / target, 1) if target > 0 else float(value == target)
    return definition.measure(
        value,
        n=len(members),
        target=aim,
        interval=auc_interval(members, others),
        per_example=tuple(wins.tolist()),
        details=details,
        note=_reading(value, aim, default=default, stored=stored),
    )


def scores(
    records: Records, score: str, *, k: float = 0.4, final_token: FinalToken = "by_rule"
) -> Float[np.ndarray, " n"]:
    """Membership scores in order of index; higher = less like a member. A log's own where it has no tokens."""
    if score not in _TEXTS:
        raise unknown("membership score", score, _TEXTS)
    require_between("k", k, 1e-9, 1)
    records = in_order(records)
    if not records.has(COLUMNS[score][0]):
        return records.numbers(COLUMNS[score][1])
    if score == "grad_norm":
        return records.numbers("gradient_norm")
    if score == "min_k_plus_plus":
        columns = [records.bodies(name, final_token) for name in ("logprobs", "logprob_means", "logprob_variances")]
        return np.array([min_k(standardized(*three), k) for three in zip(*columns, strict=True)])
    bodies = records.bodies("logprobs", final_token)
    if score == "min_k":
        return np.array([min_k(values, k) for values in bodies])
    losses = np.array([-values.mean() for values in bodies])
    if score == "zlib":
        losses = losses / records.compressed_sizes()
    return losses


def min_k(logprobs: Float[np.ndarray, " n"], k: float) -> float:
    """Minus the mean of the lowest max(1, floor(k n)) log-probabilities."""
    lowest = max(1, int(k * len(logprobs)))
    return float(-np.partition(logprobs, lowest - 1)[:lowest].mean())


def standardized(
    logprobs: Float[np.ndarray, " n"], means: Float[np.ndarray, " n"], variances: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """How each token's log-probability stands among those of the whole vocabulary, in standard deviations."""
    return np.asarray((logprobs - means) / np.sqrt(np.maximum(variances, LEAST_VARIANCE)))


def auc(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> float:
    """P(other > member) + P(equal) / 2."""
    return float(_wins(members, others).mean())


def auc_interval(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """95 % interval of the AUC: members and others are resampled apart."""
    return interval(resampled_auc(members, others), [len(members), len(others)])


def resampled_auc(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> Callable[..., np.ndarray]:
    """The AUC as a function of how often each member [R, n] and each other [R, m] was drawn."""
    order = np.argsort(members)
    low, high = _ranks(members[order], others)

    def statistic(w_members: np.ndarray, w_others: np.ndarray) -> np.ndarray:
        below = np.concatenate([np.zeros((len(w_members), 1)), w_members[:, order].cumsum(1)], axis=1)
        wins = (w_others * (below[:, low] + below[:, high]) / 2).sum(1)
        return np.asarray(wins / (len(members) * len(others)))

    return statistic


def _wins(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each member the share of others with a higher score, ties counted half."""
    low, high = _ranks(np.sort(others), members)
    return np.asarray(1 - (low + high) / 2 / len(others))


def _ranks(ordered: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")


def _reading(value: float, target: float, *, default: bool, stored: bool) -> str:
    notes = ["Scores as the log has them, by its own rule for the end token."] if stored else []
    if default:
        notes.append(DEFAULT_AUC)
    if value >= _FAR > target:
        notes.append("The forget set is recognizably memorized.")
    if value <= 1 - _FAR < target:
        notes.append(
            "Over-unlearned: the forget set looks less familiar than text that was never seen, which gives it away too."
        )
    return " ".join(notes)
