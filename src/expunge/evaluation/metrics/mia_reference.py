"""Membership inference calibrated with a reference model: is a text easier here than where it was never seen?"""

import numpy as np

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics._views import in_order, per_example, require_rows
from expunge.evaluation.metrics.mia import CHANCE, auc_measure
from expunge.results.measures import Definition, Measure
from expunge.results.records import FinalToken, Records

DEFINITION = Definition(
    text=(
        "AUC of a membership score: probability that a text never trained on scores higher (less like a member) than a "
        "forget text, plus half that of a tie; end token left out. Score: mean token loss minus that under the "
        "reference model"
    ),
    source="Carlini et al. 2021, arXiv:2012.07805",
    better="near",
    reads=("logprobs", "mia_reference"),
)


def mia_reference(
    forget: Records,
    holdout: Records,
    reference_forget: Records | None = None,
    reference_holdout: Records | None = None,
    *,
    final_token: FinalToken = "by_rule",
) -> Measure:
    """AUC of telling forget texts from unseen ones by how much easier they are than under a model that saw neither.

    Near 1: the forget set is recognizably memorized. Near 0: over-unlearned. The retain model itself has 0.5, since
    each of its texts scores 0.

    Args:
        forget: forget answers under the model.
        holdout: answers of the same kind that were never trained on.
        reference_forget: the forget answers under the reference model, for which suites take the retain model. It and
            the next are needed unless the rows are a log's, which holds finished scores.
        reference_holdout: the holdout answers under it.
        final_token: as in `exact_memorization`; open-unlearning leaves the last token in.

    Raises:
        ExpungeError: no rows, no reference model, or different examples under the two models.

    Source: Carlini et al. 2021, arXiv:2012.07805. Departures: the end token is left out.
    """
    require_rows(forget=forget, holdout=holdout)
    if forget.has("mia_reference") and holdout.has("mia_reference"):
        stored = [in_order(records).numbers("mia_reference") for records in (forget, holdout)]
        return auc_measure(DEFINITION, stored[0], stored[1], target=CHANCE, stored=True)
    if reference_forget is None or reference_holdout is None:
        raise ExpungeError("a score calibrated with a reference model needs that model's records of the same answers.")
    require_rows(reference_forget=reference_forget, reference_holdout=reference_holdout)

    def calibrated(here: Records, there: Records) -> np.ndarray:
        here, there = in_order(here), in_order(there)
        per_example(here, there, names=("this model", "the reference model"))
        ours, theirs = (records.bodies("logprobs", final_token) for records in (here, there))
        return np.array([b.mean() - a.mean() for a, b in zip(ours, theirs, strict=True)])

    members, others = calibrated(forget, reference_forget), calibrated(holdout, reference_holdout)
    return auc_measure(DEFINITION, members, others, target=CHANCE)
