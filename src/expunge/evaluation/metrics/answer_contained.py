"""Does the generation contain the true answer?"""

import numpy as np

from expunge.core.normal_form import caseless
from expunge.evaluation.metrics._views import direction, generations, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="share of examples whose greedy generation contains the true answer, case aside",
    source="accuracy on real authors and world facts of WAGLE, arXiv:2410.17509",
    better=None,
    reads=("generation",),
    mean=True,
)


def answer_contained(records: Records, *, better: Direction | None = None) -> Measure:
    """Share of generations in which the true answer stands somewhere, upper and lower case alike, in [0, 1].

    Made for answers of a word or two; a long answer is hardly ever repeated letter by letter.

    Args:
        records: one row an example, with a generation.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or rows without a generation.

    Source: WAGLE, arXiv:2410.17509. Departures: none.
    """
    require_rows(records=records)
    return mean_measure(DEFINITION, contained(records), better=direction(records, better))


def contained(records: Records) -> np.ndarray:
    """1 where a row's generation contains its completion, else 0, in order of index."""
    records = in_order(records)
    pairs = zip(records.column("completion"), generations(records), strict=True)
    return np.array([float(caseless(true.strip()) in caseless(said)) for true, said in pairs])
