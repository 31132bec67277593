"""Nested settings and results: by dotted name, and as JSON can hold them."""

import math
from collections.abc import Mapping
from typing import Any


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted name, such as `adapter_settings.rank`; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        found |= flattened(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def finite(value: Any) -> Any:
    """The same nested value with None in place of NaN and infinities, which JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
