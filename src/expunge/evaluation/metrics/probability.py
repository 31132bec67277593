"""Probability of an answer."""

from expunge.evaluation.metrics._views import direction, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "mean over examples of exp(-mean token loss), the geometric mean probability of the answer's tokens, end token "
        "included"
    ),
    source="TOFU, arXiv:2401.06121",
    better=None,
    mean=True,
)


def probability(records: Records, *, better: Direction | None = None) -> Measure:
    """Mean over examples of exp(-mean negative log-probability) of the answer's tokens, in [0, 1].

    Args:
        records: one row an example.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or a row without tokens.

    Source: TOFU, arXiv:2401.06121. Departures: none.
    """
    require_rows(records=records)
    records = in_order(records)
    return mean_measure(DEFINITION, records.probabilities(), better=direction(records, better))
