"""What columns mean: rows with named values become examples."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.checks import ExpungeError, nearest, unknown
from expunge.data.corpus import Example, ExampleKind
from expunge.data.reading import Row

KINDS: dict[ExampleKind, tuple[str, ...]] = {
    "qa": ("question", "answer"),
    "completion": ("prompt", "completion"),
    "chat": ("messages",),
    "text": ("text",),
}
"""The columns that each kind of example needs."""
VARIANTS = ("paraphrased_question", "paraphrased_answer", "perturbed_answer", "alternate")
"""Columns that any kind may have as well."""
LISTS = ("messages", "perturbed_answer", "alternate")
"""Columns that hold lists, which CSV writes as JSON."""
_NAMES = (*(name for names in KINDS.values() for name in names), *VARIANTS)
_FORMS = "question + answer, prompt + completion, messages, or text"


def check_columns(sets: Mapping[str, Sequence[Row]], columns: Mapping[str, str]) -> None:
    """Raise unless every key of `columns` is a name of ours and every value a column of at least one of the sets."""
    for name, column in columns.items():
        if name not in _NAMES:
            raise unknown("column name", name, _NAMES, came_from=f"columns.{name}={column}")
        if not any(column in row.values for rows in sets.values() for row in rows):
            held = "; ".join(f"{what}: {', '.join(_columns(rows))}" for what, rows in sets.items())
            near = nearest(column, [c for rows in sets.values() for c in _columns(rows)])
            hint = f" Did you mean columns.{name}={near[0]}?" if near else ""
            raise ExpungeError(f"columns.{name}={column}: no such column.{hint} There are {held}.")


def examples(rows: Sequence[Row], *, what: str, columns: Mapping[str, str] | None = None) -> tuple[Example, ...]:
    """Examples out of rows; their kind is found from the columns that are there.

    Args:
        rows: at least one.
        what: what the rows are, for messages: `forget (f.jsonl)`.
        columns: our names to the rows' own, where they differ.

    Raises:
        ExpungeError: a missing column, columns of several kinds, or a value of the wrong form, with the row's name.
    """
    columns = columns or {}
    kind = _kind(rows, what, columns)
    return tuple(_example(row, kind, columns) for row in rows)


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(column) for row in rows for column in row.values))


def _kind(rows: Sequence[Row], what: str, columns: Mapping[str, str]) -> ExampleKind:
    there = _columns(rows)
    found = {kind: [n for n in names if columns.get(n, n) in there] for kind, names in KINDS.items()}
    mapped = [kind for kind, names in found.items() if any(n in columns for n in names)]
    complete = [kind for kind in mapped or KINDS if len(found[kind]) == len(KINDS[kind])]
    # A text beside half of a question is more likely a question with a misnamed answer than plain text.
    half = [kind for kind in mapped or KINDS if found[kind] and kind not in complete]
    if len(complete) > 1 or (complete == ["text"] and half):
        rivals = [" + ".join(columns.get(n, n) for n in found[kind]) for kind in [*complete, *half]]
        choice = " or ".join(" ".join(f"columns.{n}={columns.get(n, n)}" for n in KINDS[kind]) for kind in complete)
        raise ExpungeError(f"{what} can be read in several ways: {'; '.join(rivals)}. Say which: {choice}.")
    if complete:
        return complete[0]
    raise _missing(what, there, (*mapped, *half, "qa")[0], columns)


def _missing(what: str, there: Sequence[str], kind: ExampleKind, columns: Mapping[str, str]) -> ExpungeError:
    absent = [n for n in KINDS[kind] if columns.get(n, n) not in there]
    near = {n: nearest(n, there) for n in absent}
    how = " ".join(f"columns.{n}={near[n][0] if near[n] else '<column>'}" for n in absent)
    wanted = " and no ".join(f"'{columns.get(n, n)}'" for n in absent)
    return ExpungeError(
        f"{what} has no column {wanted}; it holds {', '.join(there) or 'none'}. Say which of them it is: {how}. "
        f"Rows need {_FORMS}."
    )


def _example(row: Row, kind: ExampleKind, columns: Mapping[str, str]) -> Example:
    messages: tuple[tuple[str, str], ...] = ()
    prompt = ""
    if kind == "chat":
        *before, (_, completion) = _messages(*_cell(row, "messages", columns))
        messages = tuple(before)
    else:
        *asked, supervised = (_text(*_cell(row, name, columns)) for name in KINDS[kind])
        prompt, completion = (asked[0] if asked else ""), supervised
    paraphrased_prompt = _optional_text(row, "paraphrased_question", columns)
    if kind == "text" and paraphrased_prompt is not None:
        raise ExpungeError(f"{row.origin}: a plain text has no question, so it cannot have a paraphrased_question.")
    return Example(
        kind=kind,
        prompt=prompt,
        completion=completion,
        messages=messages,
        paraphrased_prompt=paraphrased_prompt,
        paraphrased=_optional_text(row, "paraphrased_answer", columns),
        perturbed=_optional_texts(row, "perturbed_answer", columns),
        alternates=_optional_texts(row, "alternate", columns),
        origin=row.origin,
    )


def _cell(row: Row, name: str, columns: Mapping[str, str]) -> tuple[Any, str]:
    """A value that must be there, and where it stands."""
    column = columns.get(name, name)
    if column not in row.values:
        raise ExpungeError(
            f"{row.origin}: no '{column}', which other rows have; this one holds {', '.join(map(str, row.values))}."
        )
    value, where = row.values[column], f"{row.origin}: '{column}'"
    return (_unflattened(value, where) if row.flat and name in LISTS else value), where


def _optional_text(row: Row, name: str, columns: Mapping[str, str]) -> str | None:
    return None if _absent(row, name, columns) else _text(*_cell(row, name, columns))


def _optional_texts(row: Row, name: str, columns: Mapping[str, str]) -> tuple[str, ...]:
    if _absent(row, name, columns):
        return ()
    value, where = _cell(row, name, columns)
    if name == "alternate" and isinstance(value, str):
        return (_text(value, where),)
    if not isinstance(value, list | tuple):
        raise ExpungeError(f"{where} must be a list of texts; got {type(value).__name__} ({str(value)[:60]!r}).")
    return tuple(_text(v, f"{where}, number {n}") for n, v in enumerate(value, start=1))


def _absent(row: Row, name: str, columns: Mapping[str, str]) -> bool:
    value = row.values.get(columns.get(name, name))
    return value is None or (row.flat and value == "")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ExpungeError(
            f"{where} must be a text; got {'null' if value is None else f'{type(value).__name__} ({str(value)[:60]})'}."
        )
    if not value.strip():
        raise ExpungeError(f"{where} is empty. Fill it in, or take the row out.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ExpungeError(f"{where} is not valid Unicode at character {error.start} ({error.reason}).") from error
    return value


def _unflattened(value: Any, where: str) -> Any:
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ExpungeError(
            f"{where} begins like a JSON list, but is broken ({error.msg} at column {error.colno})."
        ) from error


def _messages(value: Any, where: str) -> list[tuple[str, str]]:
    if not isinstance(value, list | tuple):
        raise ExpungeError(f"{where} must be a list of {{role, content}}; got {type(value).__name__}.")
    found = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ExpungeError(f"{where}, message {number}: needs role and content; got {str(message)[:80]!r}.")
        found.append(
            (
                _text(message["role"], f"{where}, message {number}, role"),
                _text(message["content"], f"{where}, message {number}, content"),
            )
        )
    if len(found) < 2 or found[-1][0] != "assistant":
        roles = ", ".join(role for role, _ in found) or "none"
        raise ExpungeError(
            f"{where} must end with a message of the assistant that answers one before it; the roles are {roles}."
        )
    return found
