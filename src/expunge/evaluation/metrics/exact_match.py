"""Is the generated answer the true one, word for word?"""

import numpy as np

from expunge.core.normal_form import caseless
from expunge.evaluation.metrics._views import direction, generations, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

_PERIODS = (".", "\u3002", "\u0964", "\u06d4")
"""Also as Chinese and Japanese, Hindi and Urdu write it."""
DEFINITION = Definition(
    text="share of examples whose greedy generation equals the true answer; case, outer blanks and a last period aside",
    source="knowledge test of LUME, arXiv:2502.15097",
    better=None,
    reads=("generation",),
    mean=True,
)


def exact_match(records: Records, *, better: Direction | None = None) -> Measure:
    """Share of examples answered with the true answer exactly, in [0, 1].

    Args:
        records: one row an example, with a generation.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or rows without a generation.

    Source: LUME, arXiv:2502.15097. Departures: one final period is passed over, which some of its answers have.
    """
    require_rows(records=records)
    records = in_order(records)
    pairs = zip(records.column("completion"), generations(records), strict=True)
    values = np.array([float(_plain(true) == _plain(said)) for true, said in pairs])
    return mean_measure(DEFINITION, values, better=direction(records, better))


def _plain(text: str) -> str:
    text = text.strip()
    return caseless(text[:-1] if text.endswith(_PERIODS) else text)
