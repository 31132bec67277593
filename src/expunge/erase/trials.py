"""How near a trial came to a model that never knew and kept the rest. Pure functions on measures."""

from collections.abc import Mapping
from typing import Any

FORGET, RETAIN = "forget_extraction_strength", "retain_extraction_strength"
PROBABILITY = "forget_probability"
WITHIN = 0.02
"""A trial has forgotten at this distance above a model that never knew."""
KEPT = 0.95
"""Share of the start model's retain set that a trial must keep."""


def distance(row: Mapping[str, Any], level: float, retain: float) -> float:
    """By how much a trial misses the target.

    Below the level is as good as at it: what is left to know is nothing.

    Args:
        row: extraction strengths of the trial, `FORGET` and `RETAIN`.
        level: extraction strength of the forget set in a model that never knew it.
        retain: extraction strength of the retain set in the start model; 0 where it knew nothing of it.

    Returns:
        The larger of what is missing at forgetting and at keeping; 0 or less where the target is reached.
    """
    beyond = float(row[FORGET]) - level - WITHIN
    lost = KEPT - float(row[RETAIN]) / retain if retain > 0 else -1.0
    return max(beyond, lost)
