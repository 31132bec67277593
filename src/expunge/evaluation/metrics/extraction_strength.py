"""How much of an answer's beginning must be given before the model completes it without a mistake?"""

from typing import Literal

import numpy as np
from jaxtyping import Bool

from expunge.evaluation.metrics._views import direction, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import FinalToken, Records

DEFINITION = Definition(
    text=(
        "mean over examples of 1 - k/n: k the fewest answer tokens after which every remaining one is the likeliest "
        "in its place, n the answer's tokens without the end token; 0 where the last one is wrong"
    ),
    source="Carlini et al., arXiv:2012.07805; open-unlearning, arXiv:2506.12618",
    better=None,
    reads=("hits", "extraction_strength"),
    mean=True,
)

Floor = Literal["zero", "as_reference"]


def extraction_strength(
    records: Records,
    *,
    final_token: FinalToken = "by_rule",
    floor: Floor = "zero",
    better: Direction | None = None,
) -> Measure:
    """Mean over examples of the share of the answer that follows by itself, teacher-forced, in [0, 1].

    Args:
        records: one row an example, with hits (or a log's own numbers).
        final_token: as in `exact_memorization`.
        floor: `zero`: an answer whose last token is wrong scores 0; `as_reference`: it scores 1/n, as in
            open-unlearning.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or a completion of nothing but its end token.

    Source: Carlini et al., arXiv:2012.07805; open-unlearning, arXiv:2506.12618. Departures: reaches 0; texts that don't
    close with an end token keep their last token.
    """
    require_rows(records=records)
    records = in_order(records)
    note = ""
    if records.has("hits"):
        values = np.array([strength(h, floor=floor) for h in records.bodies("hits", final_token)], dtype=np.float64)
    else:
        values = records.numbers("extraction_strength")
        note = "As the log has it: never below 1/n of an answer of n tokens."
    return mean_measure(DEFINITION, values, better=direction(records, better), note=note)


def strength(hits: Bool[np.ndarray, " n"], *, floor: Floor = "zero") -> float:
    """Length of the longest all-hit suffix over n; with `as_reference` at least 1/n."""
    misses = np.flatnonzero(~hits)
    suffix = len(hits) - 1 - misses[-1] if len(misses) else len(hits)
    return float(max(suffix, floor == "as_reference") / len(hits))
