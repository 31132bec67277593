"""How much of an answer is the model's first guess, token by token?"""

import numpy as np

from expunge.evaluation.metrics._views import direction, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import FinalToken, Records

DEFINITION = Definition(
    text=(
        "mean over examples of the share of the answer's tokens, end token left out, that are the most probable in "
        "their place"
    ),
    source="Tirumala et al., arXiv:2205.10770; open-unlearning, arXiv:2506.12618",
    better=None,
    reads=("hits", "exact_memorization"),
    mean=True,
)


def exact_memorization(
    records: Records, *, final_token: FinalToken = "by_rule", better: Direction | None = None
) -> Measure:
    """Mean over examples of the share of tokens that are the argmax given the true text before them, in [0, 1].

    Args:
        records: one row an example, with hits (or a log's own numbers).
        final_token: `by_rule` leaves out a closing end token where there is one; `as_reference` leaves out the last
            token always, as open-unlearning does.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or a completion of nothing but its end token.

    Source: Tirumala et al., arXiv:2205.10770; open-unlearning, arXiv:2506.12618. Departures: texts that don't close
    with an end token keep their last token.
    """
    require_rows(records=records)
    records = in_order(records)
    if records.has("hits"):
        values = np.array([hits.mean() for hits in records.bodies("hits", final_token)], dtype=np.float64)
    else:
        values = records.numbers("exact_memorization")
    return mean_measure(DEFINITION, values, better=direction(records, better))
