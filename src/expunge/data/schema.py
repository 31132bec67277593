"""What columns mean: rows with named values become examples."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from expunge.core.checks import ExpungeError, nearest, unknown
from expunge.core.json_text import parse_json
from expunge.core.surface import assigned
from expunge.data.corpus import Example, ExampleKind
from expunge.data.row import Row, each

KINDS: dict[ExampleKind, tuple[str, ...]] = {
    "qa": ("question", "answer"),
    "completion": ("prompt", "completion"),
    "chat": ("messages",),
    "text": ("text",),
}
"""The columns that each kind of example needs."""
VARIANTS = ("paraphrased_question", "paraphrased_answer", "perturbed_answer", "alternate")
"""Columns that any kind may have as well."""
INPUT = "input"
"""A column that belongs to a question or prompt, and follows it after a line feed."""
_PROMPT_COLUMNS = (INPUT, "context", "system", "history")
LISTS = ("messages", "perturbed_answer", "alternate")
"""Columns that hold lists, which CSV writes as JSON."""
ALSO_CALLED: tuple[dict[str, str], ...] = (
    {"question": "instruction", "answer": "output"},  # Alpaca
    {"messages": "conversations"},  # ShareGPT
)
"""Names that other formats have for columns of ours, which are understood where ours are not there."""
_OTHER_WORDS = {
    "question": ("instruction", "query", "problem", "user", "input"),
    "answer": ("output", "response", "reply", "solution", "target", "completion", "assistant"),
}
"""Names under which columns are often found, for advice."""
ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names of roles."""
_NAMES = (*(name for names in KINDS.values() for name in names), *VARIANTS, INPUT)
_FORMS = "question + answer, prompt + completion, messages, text, or the forms of Alpaca and ShareGPT"

Columns = Mapping[str, str | Mapping[str, str]]
"""Our names to the columns of all sets, `{"question": "q"}`, or of one set, `{"forget": {"question": "q"}}`."""
Turns = Literal["last", "all"]


def check_columns(sets: Mapping[str, Sequence[Row]], columns: Columns, not_read: Sequence[str] = ()) -> None:
    """Raise unless every key of `columns` is a name of ours and every column there.

    Args:
        sets: the rows of each set by its name.
        columns: those of one set must be in that set, those of all sets in at least one.
        not_read: further sets, of which nothing is known.
    """
    for name, column in columns.items():
        if isinstance(column, Mapping):
            if name not in (*sets, *not_read):
                raise unknown("set", name, [*sets, *not_read], came_from=assigned(columns={name: dict(column)}))
            for ours, theirs in column.items():
                _check_column(ours, theirs, {name: sets[name]} if name in sets else {}, of=name)
        else:
            _check_column(name, column, {} if not_read else sets)


def _check_column(name: str, column: str, sets: Mapping[str, Sequence[Row]], of: str = "") -> None:
    asked = _setting(name, column, of)
    if name not in _NAMES:
        raise unknown("column name", name, _NAMES, came_from=asked)
    if sets and not any(column in row.values for rows in sets.values() for row in rows):
        held = "; ".join(f"{what}: {', '.join(_columns(rows))}" for what, rows in sets.items())
        near = nearest(column, [c for rows in sets.values() for c in _columns(rows)])
        hint = f" Did you mean {_setting(name, near[0], of)}?" if near else ""
        raise ExpungeError(f"{asked}: no such column.{hint} There are {held}.")


def _setting(name: str, column: str, of: str = "") -> str:
    return assigned(columns={of: {name: column}} if of else {name: column})


def _settings(columns: Mapping[str, str], of: str) -> str:
    return assigned(columns={of: dict(columns)} if of else dict(columns))


def columns_of(name: str, rows: Sequence[Row], columns: Columns) -> dict[str, str]:
    """The columns of one set: those of all sets, where it has them, and its own in their place."""
    own, there = columns.get(name, {}), _columns(rows)
    shared = {ours: theirs for ours, theirs in columns.items() if isinstance(theirs, str) and theirs in there}
    return shared | (dict(own) if isinstance(own, Mapping) else {})


def examples(
    rows: Sequence[Row],
    *,
    what: str,
    columns: Mapping[str, str] | None = None,
    of: str = "",
    turns: Turns = "last",
) -> tuple[Example, ...]:
    """Examples out of rows; their kind is found from the columns that are there.

    Args:
        rows: at least one.
        what: what the rows are, for messages: `forget (f.jsonl)`.
        columns: our names to the rows' own, where they differ.
        of: name of the set, for advice on its columns alone; empty where advice is for all sets.
        turns: of a conversation, supervise the `last` message of the assistant, or `all`, each as an example of its
            own with everything before it.

    Raises:
        ExpungeError: a missing column, columns of several kinds, or values of the wrong form, with the rows' names.
    """
    columns = columns or {}
    kind, named = _kind(rows, what, columns, of)
    _say_what_is_not_read(rows, what, kind, named, of)
    if kind == "chat" and turns == "all":
        found = each(rows, lambda row: _turns(row, named), what)
        return tuple(example for turn in found for example in turn)
    return tuple(each(rows, lambda row: _example(row, kind, named), what))


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(column) for row in rows for column in row.values))


def _kind(rows: Sequence[Row], what: str, columns: Mapping[str, str], of: str) -> tuple[ExampleKind, Mapping[str, str]]:
    """The kind of a set's rows, and our names to its columns, those of other formats included."""
    there = _columns(rows)
    named = dict(columns)
    for form in ALSO_CALLED:
        if not {*form} & {*columns, *there} and {*form.values()} <= {*there}:
            named |= form
    if "instruction" in (named.get("question"), named.get("prompt")) and INPUT in there:
        named.setdefault(INPUT, INPUT)
    found = {kind: [n for n in names if named.get(n, n) in there] for kind, names in KINDS.items()}
    mapped = [kind for kind, names in found.items() if any(n in columns for n in names)]
    complete = [kind for kind in mapped or KINDS if len(found[kind]) == len(KINDS[kind])]
    # A text beside half of a question is more likely a question with a misnamed answer than plain text.
    half = [kind for kind in mapped or KINDS if found[kind] and kind not in complete]
    if len(complete) > 1 or (complete == ["text"] and half):
        rivals = [" + ".join(named.get(n, n) for n in found[kind]) for kind in [*complete, *half]]
        choice = " or ".join(_settings({n: named.get(n, n) for n in KINDS[kind]}, of) for kind in complete)
        raise ExpungeError(f"{what} can be read in several ways: {'; '.join(rivals)}. Say which: {choice}.")
    if complete:
        return complete[0], named
    raise _missing(what, there, (*mapped, *half, "qa")[0], named, of)


def _say_what_is_not_read(rows: Sequence[Row], what: str, kind: ExampleKind, named: Mapping[str, str], of: str) -> None:
    """Warn of columns that other programs make part of the prompt, where they hold something and are not read here."""
    for column in _PROMPT_COLUMNS if kind != "text" else ():
        if column not in named.values() and any(row.values.get(column) not in (None, "", []) for row in rows):
            joined = kind != "chat" and column in (INPUT, "context") and INPUT not in named
            cure = (
                f"To put it after the question: {_settings({INPUT: column}, of)}"
                if joined
                else "What belongs to the prompt must be in the question, or in messages"
            )
            warnings.warn(f"{what}: the column '{column}' is not read. {cure}.", stacklevel=3)


def _missing(what: str, there: Sequence[str], kind: ExampleKind, columns: Mapping[str, str], of: str) -> ExpungeError:
    absent = [n for n in KINDS[kind] if columns.get(n, n) not in there]
    likely = {n: [*nearest(n, there), *(name for name in _OTHER_WORDS.get(n, ()) if name in there)] for n in absent}
    how = _settings({n: likely[n][0] if likely[n] else "<column>" for n in absent}, of)
    wanted = " and no ".join(f"'{columns.get(n, n)}'" for n in absent)
    return ExpungeError(
        f"{what} has no column {wanted}; it holds {', '.join(there) or 'none'}. Say which of them it is: {how}. "
        f"Rows need {_FORMS}."
    )


def _example(row: Row, kind: ExampleKind, columns: Mapping[str, str]) -> Example:
    if kind == "chat":
        conversation, where = _conversation(row, columns)
        *before, (role, completion) = _messages(conversation, where)
        if not before or role != "assistant":
            roles = ", ".join(role for role, _ in [*before, (role, completion)])
            raise ExpungeError(
                f"{where} must end with a message of the assistant that answers one before it; the roles are {roles}. "
                f"Take out what follows the last answer, or supervise every answer: {assigned(turns='all')}."
            )
        return _with_variants(Example(kind=kind, completion=completion, messages=tuple(before)), row, columns)
    *asked, supervised = (_text(*_cell(row, name, columns)) for name in KINDS[kind])
    prompt = asked[0] if asked else ""
    if kind in ("qa", "completion") and INPUT in columns and not _blank(row.values.get(columns[INPUT])):
        prompt += "\n" + _text(*_cell(row, INPUT, columns))
    return _with_variants(Example(kind=kind, prompt=prompt, completion=supervised), row, columns)


def _turns(row: Row, columns: Mapping[str, str]) -> list[Example]:
    """An example for each message of the assistant that answers one before it."""
    conversation, where = _conversation(row, columns)
    messages = _messages(conversation, where)
    answers = [n for n, (role, _) in enumerate(messages) if role == "assistant" and n > 0]
    if not answers:
        raise ExpungeError(
            f"{where} holds no message of the assistant that answers one before it; the roles are "
            f"{', '.join(role for role, _ in messages) or 'none'}."
        )
    found = [
        Example(
            kind="chat",
            completion=messages[n][1],
            messages=tuple(messages[:n]),
            origin=f"{row.origin}, message {n + 1}",
        )
        for n in answers
    ]
    last = _with_variants(found[-1], row, columns)  # other wordings in a row are those of its last answer
    return [*found[:-1], replace(last, origin=found[-1].origin)]


def _with_variants(example: Example, row: Row, columns: Mapping[str, str]) -> Example:
    paraphrased_prompt = _optional_text(row, "paraphrased_question", columns)
    if example.kind == "text" and paraphrased_prompt is not None:
        raise ExpungeError(f"{row.origin}: a plain text has no question, so it cannot have a paraphrased_question.")
    return replace(
        example,
        paraphrased_prompt=paraphrased_prompt,
        paraphrased=_optional_text(row, "paraphrased_answer", columns),
        perturbed=_optional_texts(row, "perturbed_answer", columns),
        alternates=_optional_texts(row, "alternate", columns),
        origin=row.origin,
    )


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


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
        return parse_json(value, where)
    except json.JSONDecodeError as error:
        raise ExpungeError(
            f"{where} begins like a JSON list, but is broken ({error.msg} at column {error.colno})."
        ) from error


def _conversation(row: Row, columns: Mapping[str, str]) -> tuple[list[Any], str]:
    """The messages of a row as they are, those of ShareGPT in our words, and where they stand."""
    value, where = _cell(row, "messages", columns)
    if not isinstance(value, list | tuple) or not value:
        got = type(value).__name__ if value else "nothing"
        raise ExpungeError(f"{where} must be a list of {{role, content}} or {{from, value}}; got {got}.")
    return [_in_our_words(message) for message in value], where


def _in_our_words(message: Any) -> Any:
    if not isinstance(message, Mapping) or not isinstance(message.get("from"), str) or "value" not in message:
        return message
    rest = {name: value for name, value in message.items() if name not in ("from", "value")}
    return {"role": ROLES.get(message["from"], message["from"]), "content": message["value"], **rest}


def _messages(messages: Sequence[Any], where: str) -> list[tuple[str, str]]:
    """(role, content) of each message."""
    found = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ExpungeError(f"{where}, message {number}: needs role and content; got {str(message)[:80]!r}.")
        found.append(
            (
                _text(message["role"], f"{where}, message {number}, role"),
                _text(message["content"], f"{where}, message {number}, content"),
            )
        )
    return found
