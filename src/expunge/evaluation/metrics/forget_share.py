"""Without a retain model: which share of the forget answers' probability is gone?"""

from expunge.evaluation.metrics._shares import kept
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "clip(1 - mean p after / mean p before, 0, 1) over the forget answers, p length-normalized, before: start "
        "model; 0 untouched, 1 gone"
    ),
    source="suite unlearun",
    better="higher",
)


def forget_share(records: Records, before: Records) -> Measure:
    """Share of the start model's mean probability of the forget answers that was removed, in [0, 1].

    It says how much is gone, not whether the model now behaves as if it had never seen the answers: that takes a retain
    model.

    Args:
        records: the forget answers after unlearning.
        before: the same under the start model.

    Raises:
        ExpungeError: no rows, or different examples in the two.

    Source: definition of the suite `unlearun`.
    """
    return kept(DEFINITION, records, before, removed=True)
