"""One row as it was written, and how the errors of many rows become one message."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from expunge.core.checks import ExpungeError

SHOWN = 20
"""Faulty rows that one message shows."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Row:
    """One row as it was written."""

    origin: str
    """Where it stands: `forget.jsonl, line 3`."""
    values: Mapping[str, Any]
    flat: bool = False
    """Can its cells hold nothing but text, as in CSV? An empty one then means that there is nothing."""


def each(items: Iterable[A], make: Callable[[A], B], what: str) -> list[B]:
    """`make` of every item, in order.

    Args:
        items: rows in whatever form.
        make: may raise an ExpungeError that names the row.
        what: what the rows are, for the message: `forget.jsonl`.

    Raises:
        ExpungeError: the error of the one faulty item; of several, their number and the first 20 errors.
    """
    made: list[B] = []
    wrong: list[str] = []
    for item in items:
        try:
            made.append(make(item))
        except ExpungeError as error:
            wrong.append(str(error))
    if len(wrong) == 1:
        raise ExpungeError(wrong[0])
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        lines = "".join(f"\n  {line}" for line in [*wrong[:SHOWN], *more])
        raise ExpungeError(f"{len(wrong)} of {len(wrong) + len(made)} rows of {what} cannot be used:{lines}")
    return made


def as_row(value: Any, origin: str) -> Row:
    """An object with named values as a row.

    Raises:
        ExpungeError: it is no object.
    """
    if not isinstance(value, Mapping):
        raise ExpungeError(
            f"{origin}: a row must be an object with named values; got {in_words(value)} ({str(value)[:60]!r})."
        )
    return Row(origin, value)


def some(rows: list[Row], where: str) -> list[Row]:
    """The rows, of which there must be at least one."""
    if not rows:
        raise ExpungeError(f"{where} holds no rows.")
    return rows


def in_words(value: Any) -> str:
    """What a value of JSON is, in words."""
    words = {
        dict: "an object",
        list: "an array",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
    }
    return "nothing (null)" if value is None else words.get(type(value), f"a {type(value).__name__}")
