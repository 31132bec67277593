"""Types of a configuration's fields, held also where it is made from Python."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from expunge.config.convert import wanted
from expunge.core.checks import ExpungeError, require_finite

_NUMBERS: dict[Any, Any] = {int: Integral, float: Real}


def check_types(config: Any) -> None:
    """Raise unless every field of a dataclass holds what it declares, with finite numbers.

    Choices among given words are left to the class, whose messages say more. NaN is left to its checks of sizes.

    Raises:
        ExpungeError: a field of another type; the message begins with its name.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        if not _fits(value, kind):
            raise ExpungeError(f"{field.name} must be {wanted(kind)}; got {value!r}.")
        if isinstance(value, float):
            require_finite(field.name, value)


def _fits(value: object, kind: Any) -> bool:
    outer, inner = get_origin(kind), get_args(kind)
    if outer in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if outer is Literal or kind is Any:
        return True
    if outer in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(one, inner[1]) for one in value.values())
    if outer in (list, tuple, Sequence):
        # One text stands for a list of one in several places.
        return isinstance(value, str) or (isinstance(value, Sequence) and all(_fits(one, inner[0]) for one in value))
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
    return isinstance(value, (str, Path) if kind is Path else kind)
