"""PrivLeak: does the model give away that the forget set was, or was not, trained on?"""

import numpy as np

from expunge.evaluation.metrics._views import TINY, require_rows
from expunge.evaluation.metrics.mia import CHANCE, auc, auc_interval, scores
from expunge.results.measures import DEFAULT_AUC, Definition, Measure
from expunge.results.records import FinalToken, Records

DEFINITION = Definition(
    text="100 * ((1 - AUC) - (1 - AUC_retain)) / ((1 - AUC_retain) + 1e-10), AUC of Min-40 %, forget against holdout",
    source="MUSE, arXiv:2407.06460",
    better="near",
    reads=("logprobs", "mia_min_k"),
)

_FAR = 50.0
_STEEP = 0.1  # where 1 - AUC_retain is smaller, a hundredth of AUC is more than ten percent


def privleak(
    forget: Records,
    holdout: Records,
    reference_forget: Records | None = None,
    reference_holdout: Records | None = None,
    *,
    k: float = 0.4,
    final_token: FinalToken = "by_rule",
) -> Measure:
    """Relative distance, in percent, of the membership AUC to the retain model's; 0 best.

    About -100: fully memorized. Positive: over-unlearned, without an upper bound (thousands where the retain model's
    AUC is near 1).

    Args:
        forget: forget answers under the model.
        holdout: answers of the same kind that were never trained on.
        reference_forget: the forget answers under the retain model; None takes AUC_retain = 0.5, and flags it.
        reference_holdout: the holdout answers under the retain model.
        k: share of lowest token log-probabilities.
        final_token: as in `exact_memorization`.

    Raises:
        ExpungeError: no rows.

    Source: MUSE, arXiv:2407.06460. Departures: none; muse_bench prints 1 - AUC.
    """
    require_rows(forget=forget, holdout=holdout)

    def pair(one: Records, other: Records) -> tuple[np.ndarray, np.ndarray]:
        return scores(one, "min_k", k=k, final_token=final_token), scores(other, "min_k", k=k, final_token=final_token)

    members, others = pair(forget, holdout)
    default = reference_forget is None or reference_holdout is None
    target = (
        CHANCE
        if reference_forget is None or reference_holdout is None
        else auc(*pair(reference_forget, reference_holdout))
    )

    def relative(value: float) -> float:
        return 100 * ((1 - value) - (1 - target)) / ((1 - target) + TINY)

    low, high = auc_interval(members, others)
    value = auc(members, others)
    notes = [DEFAULT_AUC] if default else []
    if relative(value) > _FAR:
        notes.append("Over-unlearned: the forget set looks less familiar than to a model that never saw it.")
    if relative(value) < -_FAR:
        notes.append("The forget set is recognizably memorized.")
    if 1 - target < _STEEP:
        notes.append(
            f"The retain model's AUC is {target:.4g}; so near to 1 small differences look large: compare the AUCs."
        )
    return DEFINITION.measure(
        relative(value),
        n=len(members),
        target=0.0,
        interval=(relative(high), relative(low)),
        details={
            "auc": value,
            "auc_retain_model": target,
            "default_reference": float(default),
            "n_holdout": float(len(others)),
        },
        note=" ".join(notes),
    )
