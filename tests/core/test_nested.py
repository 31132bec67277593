"""Nested settings and results: dotted names, and no number that JSON lacks."""

import math

from expunge.core.nested import finite, flattened


def test_flattened() -> None:
    nested = {"a": {"b": 1, "c": {"d": [2, {"e": 3}]}}, "f": {}, "g": None}
    assert flattened(nested) == {"a.b": 1, "a.c.d": [2, {"e": 3}], "f": {}, "g": None}


def test_finite() -> None:
    nested = {"a": math.nan, "b": (math.inf, [1.0, -math.inf]), "c": "NaN", "d": 0}
    assert finite(nested) == {"a": None, "b": [None, [1.0, None]], "c": "NaN", "d": 0}
