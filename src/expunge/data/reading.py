"""Rows of files, datasets and Python lists, each with a name for messages; what they mean is in `schema`."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.checks import ExpungeError, nearest
from expunge.core.json_text import parse_json

PARQUET_ROWS = 128
LARGEST_TABLE = 2_000_000_000
"""Bytes that a Parquet file may unpack to."""


@dataclass(frozen=True)
class Row:
    """One row as it was written."""

    origin: str
    """Where it stands: `forget.jsonl, line 3`."""
    values: Mapping[str, Any]
    flat: bool = False
    """Can its cells hold nothing but text, as in CSV? An empty one then means that there is nothing."""


def read_file(path: Path) -> list[Row]:
    """Rows of a .json (an array of objects), .jsonl, .csv, .parquet or .txt file (a plain text a line).

    Raises:
        ExpungeError: the file is missing, empty, of another format or broken; the message names the line.
    """
    path = path.expanduser()
    reader = READERS.get(path.suffix.lower())
    if not path.exists():
        raise ExpungeError(f"no file at '{path}'. {_neighbors(path)}")
    if path.is_dir():
        raise ExpungeError(f"'{path}' is a folder; name a file in it. {_neighbors(path / '-')}")
    if reader is None:
        raise ExpungeError(
            f"'{path.name}': cannot read {path.suffix or 'a file without suffix'}; known are {', '.join(READERS)}."
        )
    if path.stat().st_size == 0:
        raise ExpungeError(f"'{path}' is empty (0 bytes).")
    return _some(reader(path), str(path))


def read_json_lines(path: Path) -> list[Row]:
    """Rows of a file with one JSON object a line, whatever its suffix; blank lines are passed over.

    Raises:
        ExpungeError: a line that is no JSON object; the message holds its number and the parser's words.
    """
    rows = []
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if line.strip():
            origin = f"{path.name}, line {number}"
            rows.append(_object(_parsed(line, origin), origin))
    return _some(rows, str(path))


def read_passages(path: Path, longest: int) -> list[Row]:
    """One running text, cut at line ends into passages of at most `longest` characters; longer lines at blanks.

    Nothing but the breaks between passages is left out. Only a word that is longer by itself exceeds the length.

    Raises:
        ExpungeError: the file is no UTF-8, or holds nothing but blanks.
    """
    passages: list[str] = []
    for piece in _pieces(_decoded(path), longest):
        if passages and len(passages[-1]) + len(piece) <= longest:
            passages[-1] += piece
        else:
            passages.append(piece)
    kept = [text.strip() for text in passages if text.strip()]
    return _some([Row(f"{path.name}, passage {n}", {"text": text}) for n, text in enumerate(kept, start=1)], str(path))


def _pieces(text: str, longest: int) -> Iterator[str]:
    """Lines, and the words of lines that are too long, each with the blanks that follow it."""
    for line in text.splitlines(keepends=True):
        yield from [line] if len(line) <= longest else re.findall(r"\s*\S+\s*", line)


def read_dataset(name: str) -> list[Row]:
    """Rows of a dataset that the `datasets` library finds by `id`, `id:split` or `id:config:split`.

    Raises:
        ExpungeError: it is not available, or it has several splits and none was named.
    """
    import datasets  # takes a second to import, which those with files need not wait for

    identifier, *rest = name.split(":")
    if len(rest) > 2:
        raise ExpungeError(f"'{name}': a dataset is named as id, id:split or id:config:split.")
    config, split = (None, *rest) if len(rest) == 1 else (rest or (None, None))
    try:
        found = datasets.load_dataset(identifier, config, split=split)
    except (OSError, ValueError) as error:
        raise ExpungeError(
            f"'{name}' is neither a file here nor a dataset that is available: {error} {_neighbors(Path(name))}"
        ) from error
    if isinstance(found, Mapping):
        if len(found) > 1:
            raise ExpungeError(
                f"the dataset '{name}' has the splits {', '.join(found)}; name one: {identifier}:{next(iter(found))}."
            )
        found = next(iter(found.values()))
    return _some([_object(row, f"{name}, row {n}") for n, row in enumerate(found, start=1)], f"the dataset '{name}'")


def read_objects(rows: object, name: str) -> list[Row]:
    """Rows of a Python list of dictionaries or of a `datasets.Dataset`.

    Raises:
        ExpungeError: not something to iterate over, a dictionary of splits, empty, or an entry that is no dictionary.
    """
    if isinstance(rows, Mapping):
        raise ExpungeError(
            f"{name} must be a list of dictionaries or one dataset; got a {type(rows).__name__} with the keys "
            f"{', '.join(map(str, rows))}. Pass one of its values."
        )
    if not isinstance(rows, Iterable):
        raise ExpungeError(
            f"{name} must be a path, a dataset id, a list of dictionaries or a dataset; got {type(rows).__name__}."
        )
    return _some([_object(row, f"{name}, entry {n}") for n, row in enumerate(rows, start=1)], name)


def _json(path: Path) -> list[Row]:
    try:
        content = parse_json(_decoded(path), path.name)
    except json.JSONDecodeError as error:
        hint = " Is it one object a line? Then call it .jsonl." if error.msg == "Extra data" else ""
        raise ExpungeError(
            f"{path.name}, line {error.lineno}: broken JSON ({error.msg} at column {error.colno}).{hint}"
        ) from error
    if not isinstance(content, list):
        keys = f" with the keys {', '.join(map(str, content))}" if isinstance(content, dict) else ""
        raise ExpungeError(
            f"{path.name} must hold an array of objects, [{{...}}, ...]; it holds {_kind(content)}{keys}."
        )
    return [_object(value, f"{path.name}, entry {n}") for n, value in enumerate(content, start=1)]


def _csv(path: Path) -> list[Row]:
    text = _decoded(path)
    before = csv.field_size_limit(sys.maxsize)  # texts may be longer than its 128 kB
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ExpungeError(f"{path.name}: broken CSV ({error}).") from error
    finally:
        csv.field_size_limit(before)
    header, *body = [line for line in lines if line] or [[]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ExpungeError(f"{path.name}: more than one column is called {', '.join(twice)}.")
    rows = []
    for number, cells in enumerate(body, start=1):
        origin = f"{path.name}, row {number}"
        if len(cells) != len(header):
            raise ExpungeError(
                f"{origin}: {len(cells)} cells, but {len(header)} columns ({', '.join(header)}). "
                "A text with commas needs double quotes around it."
            )
        rows.append(Row(origin, dict(zip(header, cells, strict=True)), flat=True))
    return rows


def _parquet(path: Path) -> list[Row]:
    rows: list[Row] = []
    size = 0
    try:
        # Few rows at once: a small file can hold one long text a million times over.
        for batch in pq.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS):
            found = batch.to_pylist()
            size += sum(map(_size, found))
            if size > LARGEST_TABLE:
                raise ExpungeError(
                    f"{path.name}, of {path.stat().st_size / 1e6:.1f} MB, unpacks to more than "
                    f"{LARGEST_TABLE / 1e9:.0f} GB. Keep only the rows and columns that are to be used."
                )
            rows += [Row(f"{path.name}, row {n}", values) for n, values in enumerate(found, len(rows) + 1)]
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ExpungeError(f"{path.name}: broken Parquet, or too large to unpack ({error}).") from error
    return rows


def _size(value: Any) -> int:
    """Roughly the bytes of a value as Python holds it; Arrow's own count takes a text that repeats once."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _text_lines(path: Path) -> list[Row]:
    lines = enumerate(_decoded(path).splitlines(), start=1)
    return [Row(f"{path.name}, line {n}", {"text": line}) for n, line in lines if line.strip()]


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".json": _json,
    ".jsonl": read_json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text_lines,
}


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExpungeError(
            f"{path.name} is not UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8."
        ) from error


def _parsed(text: str, origin: str) -> Any:
    try:
        return parse_json(text, origin)
    except json.JSONDecodeError as error:
        raise ExpungeError(
            f"{origin}: broken JSON ({error.msg} at column {error.colno}). It reads {text.strip()[:60]!r}."
        ) from error


def _object(value: Any, origin: str) -> Row:
    if not isinstance(value, Mapping):
        raise ExpungeError(
            f"{origin}: a row must be an object with named values; got {_kind(value)} ({str(value)[:60]!r})."
        )
    return Row(origin, value)


def _kind(value: Any) -> str:
    words = {
        dict: "an object",
        list: "an array",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
    }
    return "nothing (null)" if value is None else words.get(type(value), f"a {type(value).__name__}")


def _some(rows: list[Row], where: str) -> list[Row]:
    if not rows:
        raise ExpungeError(f"{where} holds no rows.")
    return rows


def _neighbors(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder '{folder}' is not there either."
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    near = nearest(path.name, names, n=3)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    usable = [name for name in names if Path(name).suffix.lower() in READERS]
    shown = ", ".join(usable[:10]) + (", ..." if len(usable) > 10 else "")
    return f"The folder '{folder}' holds {shown or 'no data file'}."
