"""Shares of the start model's probability, kept or removed."""

import numpy as np

from expunge.evaluation.bootstrap import interval
from expunge.evaluation.metrics._views import in_order, per_example, require_rows
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records


def kept(definition: Definition, records: Records, before: Records, *, removed: bool) -> Measure:
    """clip(mean p after / mean p before, 0, 1), or 1 minus that; resampled by example, both models together."""
    require_rows(records=records, before=before)
    records, before = in_order(records), in_order(before)
    per_example(records, before, names=("records", "before"))
    after, start = records.probabilities(), before.probabilities()

    def share(ratio: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(1 - ratio if removed else ratio, 0, 1))

    ratio = np.asarray(after.mean() / start.mean())
    note = ""
    if ratio > 1:
        note = f"The mean probability rose to {float(ratio):.4g} times the start model's; the share is cut off."
    return definition.measure(
        float(share(ratio)),
        n=len(records),
        interval=interval(lambda w: share((w @ after) / (w @ start)), [len(records)]),
        details={"mean_probability_after": float(after.mean()), "mean_probability_before": float(start.mean())},
        note=note,
    )
