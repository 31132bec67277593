"""Values of a configuration: from text to the declared type of a setting."""

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from expunge.config.yaml_source import Mark, Marks, Where, origin, read_yaml
from expunge.core.checks import ExpungeError

NULL = ("null", "~", "")
TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")

_WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    types.NoneType: "null",
    Any: "anything",
}
_COUNTABLE = ("number", "whole number", "path", "mapping", "list")
_LAST = (bool, int, float, Path, str)
"""Readings from strict to loose; other types are tried before them."""


def describe(kind: Any) -> str:
    """A type in words: `number or null`, `linear | constant | cosine`."""
    if kind in _WORDS:
        return _WORDS[kind]
    outer, inner = get_origin(kind), get_args(kind)
    if outer is Literal:
        return " | ".join(map(str, inner))
    if outer in (Union, types.UnionType):
        return " or ".join(describe(one) for one in inner if one is not str or Path not in inner)
    if outer in (dict, Mapping):
        return f"mapping to {describe(inner[1])}"
    if outer in (list, tuple, Sequence):
        return f"list of {describe(inner[0])}"
    return getattr(kind, "__name__", str(kind))


def convert(value: Any, kind: Any, where: Where, marks: Marks) -> Any:
    """Read a value as a declared type.

    `null` is None where the type allows it, and so is `none` unless it may be a name there. Several types are tried
    from strict to loose; quoted text stays text. A list may be written `a,b`.

    Args:
        value: text, or mappings and lists of text.
        kind: the declared type: text, numbers, truth values, paths, literals, and lists, mappings and unions of these.
        where: the way to it, for messages and marks.
        marks: origins and quotes.

    Raises:
        ExpungeError: it cannot be read so; the message says what is expected, what came, and from where.
    """
    members = list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]
    quoted = where in marks and marks[where].quoted
    if quoted and str in members:
        return value
    if isinstance(value, str) and not quoted:
        empty = value.lower() in NULL
        if (empty or (value.lower() == "none" and str not in members)) and {types.NoneType, Any} & {*members}:
            return None
        members = [] if empty else members
    for member in sorted(members, key=lambda m: _LAST.index(m) if m in _LAST else -1):
        try:
            return _read(value, member, where, marks, quoted)
        except _Mismatch:
            continue
    shown = repr(value) if isinstance(value, str) else f"a {'mapping' if isinstance(value, Mapping) else 'list'}"
    came_from = origin(where, marks)
    wanted = describe(kind)
    if " or " not in wanted:
        wanted = " or ".join(wanted.rsplit(" | ", 1))
    wanted = f"a {wanted}" if wanted.startswith(_COUNTABLE) else wanted.replace(" | ", ", ")
    raise ExpungeError(f"{'.'.join(map(str, where))} must be {wanted}; got {shown} (from {came_from}).")


class _Mismatch(Exception):
    """This reading does not fit; another one may."""


def _read(value: Any, kind: Any, where: Where, marks: Marks, quoted: bool) -> Any:
    outer, inner = get_origin(kind), get_args(kind)
    nests = outer in (dict, Mapping, list, tuple, Sequence) or kind is Any
    if nests and isinstance(value, str) and value[:1] in ("{", "[") and not quoted:
        value, found = read_yaml(value, origin(where, marks), lines=False)
        marks = {**marks, **{(*where, *w): mark for w, mark in found.items()}}
    if kind is Any:
        return _guess(value, where, marks, quoted)
    if outer in (dict, Mapping) and isinstance(value, Mapping):
        return {key: convert(v, inner[1], (*where, key), marks) for key, v in value.items()}
    if outer in (list, tuple, Sequence) and isinstance(value, str | list):
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        known = {(*where, i): marks.get((*where, i), Mark(origin(where, marks))) for i in range(len(parts))}
        read = (convert(part, inner[0], (*where, i), {**marks, **known}) for i, part in enumerate(parts))
        return list(read) if outer is list else tuple(read)
    if not isinstance(value, str):
        raise _Mismatch
    if outer is Literal:
        choices = {str(choice): choice for choice in inner}
    elif kind is bool:
        choices = dict.fromkeys(TRUE, True) | dict.fromkeys(FALSE, False)
        value = value.lower()
    elif kind in _LAST:
        try:
            return kind(value)
        except ValueError:
            raise _Mismatch from None
    else:
        raise _Mismatch
    if value not in choices:
        raise _Mismatch
    return choices[value]


def _guess(value: Any, where: Where, marks: Marks, quoted: bool) -> Any:
    """A value without a declared type: numbers, true, false and null as in JSON, else text."""
    if isinstance(value, Mapping):
        return {key: convert(v, Any, (*where, key), marks) for key, v in value.items()}
    if isinstance(value, list):
        return [convert(v, Any, (*where, i), marks) for i, v in enumerate(value)]
    if quoted:
        return value
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
