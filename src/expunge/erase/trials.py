"""How near a trial came to a model that never knew and kept the rest. Pure functions on measures."""

from collections.abc import Mapping
from typing import Any

from expunge.report.faults import BELOW, REPEATS

FORGET, RETAIN = "forget_extraction_strength", "retain_extraction_strength"
PROBABILITY, REPETITION = "forget_probability", "forget_repetition"
MEASURED = (FORGET, RETAIN, PROBABILITY, REPETITION)
"""What is measured of each trial."""
WITHIN = 0.02
"""A trial has forgotten at this distance above a model that never knew."""
KEPT = 0.95
"""Share of the start model's retain set that a trial must keep."""


def distance(row: Mapping[str, Any], never: Mapping[str, float], start: Mapping[str, float]) -> float:
    """By how much a trial misses the target.

    An extraction strength below that of a model that never knew is as good as at it. A probability far below, or
    answers that repeat themselves, are not: such a model gives away what was erased, and answers with gibberish.

    Args:
        row: `MEASURED` of the trial.
        never: `FORGET` and `PROBABILITY` in a model that never knew.
        start: `RETAIN` and `REPETITION` in the start model.

    Returns:
        The largest of what is missing at forgetting, at keeping, and of what is done too much; 0 or less where the
        target is reached.
    """
    beyond = float(row[FORGET]) - never[FORGET] - WITHIN
    lost = KEPT - float(row[RETAIN]) / start[RETAIN] if start[RETAIN] > 0 else -1.0
    too_low = 1 - BELOW * float(row[PROBABILITY]) / never[PROBABILITY] if never[PROBABILITY] > 0 else -1.0
    repeats = float(row[REPETITION]) - max(REPEATS, start[REPETITION])
    return max(beyond, lost, too_low, repeats)
