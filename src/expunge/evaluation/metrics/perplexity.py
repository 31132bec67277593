"""Perplexity of the answers."""

import numpy as np

from expunge.evaluation.bootstrap import interval
from expunge.evaluation.metrics._views import direction, in_order, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="exp of the mean token loss over all answer tokens of all examples, end tokens included",
    source="standard; token-weighted",
    better=None,
    reads=("logprobs",),
)


def perplexity(records: Records, *, better: Direction | None = None) -> Measure:
    """exp(token-weighted mean negative log-probability) of the answers; at least 1, 1 = every token certain.

    Long answers weigh more than short ones: this is not the mean of per-example perplexities, which `per_example`
    holds.

    Args:
        records: one row an example, with token log-probabilities.
        better: direction; None: higher on the forget set (unknown), lower elsewhere.

    Returns:
        The perplexity; its logarithm, the token-weighted mean loss in nats, as `loss` in `details`.

    Raises:
        ExpungeError: no rows, or a row without tokens.
    """
    require_rows(records=records)
    records = in_order(records)
    counts = records.token_counts()
    sums = records.mean_losses() * counts
    knowledge = direction(records, None)
    return DEFINITION.measure(
        float(np.exp(sums.sum() / counts.sum())),
        n=len(records),
        better=better or ("higher" if knowledge == "lower" else "lower"),
        interval=interval(lambda w: np.exp((w @ sums) / (w @ counts)), [len(records)]),
        per_example=tuple(np.exp(sums / counts).tolist()),
        details={"loss": float(sums.sum() / counts.sum()), "tokens": float(counts.sum())},
    )
