"""Memorization accuracy: how many tokens of a text are the model's first guess, each given all before it?"""

import numpy as np

from expunge.evaluation.metrics._views import direction, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="mean over sequences of the share of tokens, the first left out, that are the most probable in their place",
    source="Tirumala et al., arXiv:2205.10770; Jang et al., arXiv:2210.01504, equation 3",
    better=None,
    reads=("hits",),
    mean=True,
)


def memorization_accuracy(records: Records, *, better: Direction | None = None) -> Measure:
    """Mean over sequences of MA = (1 / (T - 1)) * sum_i [argmax p(. | x_1 .. x_i) = x_(i+1)], in [0, 1].

    Unlike `exact_memorization` it counts every token of a text, those of a prompt too.

    Args:
        records: one row a sequence (answer kind `sequence`).
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows.

    Source: Jang et al., arXiv:2210.01504, equation 3. Departures: none; a tokenizer that puts a beginning token before
    each text has the text's own first token predicted too.
    """
    require_rows(records=records)
    values = np.array([hits.mean() for hits in in_order(records).arrays("hits")], dtype=np.float64)
    return mean_measure(DEFINITION, values, better=direction(records, better))
