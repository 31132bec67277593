"""Without a retain model: which share of the retain answers' probability was kept?"""

from expunge.evaluation.metrics._shares import kept
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="clip(mean p after / mean p before, 0, 1) over the retain answers, p length-normalized, before: start model",
    source="suite unlearun",
    better="higher",
)


def utility_share(records: Records, before: Records) -> Measure:
    """Share of the start model's mean probability of the retain answers that was kept, in [0, 1].

    Args:
        records: the retain answers after unlearning.
        before: the same under the start model.

    Raises:
        ExpungeError: no rows, or different examples in the two.

    Source: definition of the suite `unlearun`.
    """
    return kept(DEFINITION, records, before, removed=False)
