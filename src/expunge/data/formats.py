"""The formats of data files: the content of one file to rows, each with the place it was written in."""

import csv
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.checks import ExpungeError
from expunge.core.json_text import parse_json
from expunge.data.row import Row, as_row, each, in_words

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""Suffixes of compressed files, with pyarrow's names of the compressions."""
ROWS_AT_ONCE, UNPACKED_AT_ONCE = 128, 1 << 24
LARGEST = 4_000_000_000
"""Bytes that a file may unpack to."""
SEPARATORS = ",;\t|"
_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"
_CONVERSATIONS = ("messages", "conversations")


def format_of(path: Path) -> str:
    """The suffix that says how a file is read: `.jsonl` for `forget.jsonl` and `forget.jsonl.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def content(path: Path) -> bytes:
    """The bytes of a file, decompressed where its name ends in .gz or .zst.

    Raises:
        ExpungeError: the compressed content is broken.
    """
    compression = COMPRESSED.get(path.suffix.lower())
    if compression is None:
        return path.read_bytes()
    try:
        found, packed = bytearray(), path.stat().st_size
        with pa.input_stream(str(path), compression=compression) as stream:
            while block := stream.read(UNPACKED_AT_ONCE):
                found += block
                check_unpacked(len(found), packed, path.name)
        return bytes(found)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ExpungeError(f"{path.name}: broken {compression} content ({error}).") from error


def decoded(data: bytes, name: str) -> str:
    """UTF-8 text without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExpungeError(
            f"{name} is not UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8."
        ) from error


def json_lines(data: bytes, name: str) -> list[Row]:
    """Rows of one JSON object a line; blank lines are passed over.

    Raises:
        ExpungeError: lines that are no JSON object; the message holds their numbers and the parser's words.
    """
    lines = enumerate(decoded(data, name).split("\n"), start=1)
    return each(((number, line) for number, line in lines if line.strip()), lambda item: _line(*item, name), name)


def _line(number: int, line: str, name: str) -> Row:
    origin = f"{name}, line {number}"
    try:
        return as_row(parse_json(line, origin), origin)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and line[error.pos :].lstrip().startswith("{"):
            raise ExpungeError(
                f"{origin}: two JSON objects on one line; the second begins at column {error.colno}. That comes of "
                "joining files of which one lacks a line feed at its end. Put a line feed between the two."
            ) from error
        raise ExpungeError(
            f"{origin}: broken JSON ({error.msg} at column {error.colno}). It reads {line.strip()[:60]!r}."
        ) from error


def _json_lines_or_array(data: bytes, name: str) -> list[Row]:
    """A .jsonl file that begins like an array may be one."""
    try:
        found = parse_json(decoded(data, name), name) if data.lstrip(_BEFORE_JSON).startswith(b"[") else None
    except json.JSONDecodeError:
        found = None
    if isinstance(found, list) and all(isinstance(value, dict) for value in found):
        return _array(found, name)
    return json_lines(data, name)


def _json(data: bytes, name: str) -> list[Row]:
    """An array of objects, or one object, or an object a line: what the content is, not what its name says."""
    text = decoded(data, name)
    if not text.strip():
        return []
    try:
        found = parse_json(text, name)
    except json.JSONDecodeError as error:
        several = error.msg == "Extra data"
        first, _, _ = text.lstrip().partition("\n")
        if several and first.startswith("{") and first.rstrip().endswith("}"):
            return json_lines(data, name)
        hint = " Several values stand one after the other: put all rows into one array, or each on one line."
        raise ExpungeError(
            f"{name}, line {error.lineno}: broken JSON ({error.msg} at column {error.colno}).{hint if several else ''}"
        ) from error
    if isinstance(found, dict) and not any(_holds_rows(k, v) for k, v in found.items()):
        return [Row(f"{name}, line 1", found)]
    if not isinstance(found, list):
        keys = f" with the keys {', '.join(map(str, found))}" if isinstance(found, dict) else ""
        raise ExpungeError(
            f"{name} must hold an array of objects, [{{...}}, ...], or an object a line; it holds "
            f"{in_words(found)}{keys}."
        )
    return _array(found, name)


def _holds_rows(key: str, value: Any) -> bool:
    """Is this value of an object the data itself, rather than a cell of a row?"""
    return key not in _CONVERSATIONS and isinstance(value, list) and any(isinstance(one, dict) for one in value)


def _array(found: list[Any], name: str) -> list[Row]:
    return each(enumerate(found, start=1), lambda item: as_row(item[1], f"{name}, entry {item[0]}"), name)


def _csv(data: bytes, name: str) -> list[Row]:
    """Comma-separated cells; another separator is named by a line that Excel puts first, else found in the header."""
    text = decoded(data, name)
    if named := re.match(r"sep=([,;\t|])\r?\n", text):
        return _separated(text[named.end() :], name, named[1])
    # Of equally many columns the comma's are taken, which comes first.
    separator = max(SEPARATORS, key=lambda sign: len(_header(text, sign)))
    if separator != ",":
        sign = "tabs" if separator == "\t" else f"'{separator}'"
        warnings.warn(f"{name}: read with {sign} between its cells, as in its first line.", stacklevel=2)
    return _separated(text, name, separator)


def _tsv(data: bytes, name: str) -> list[Row]:
    return _separated(decoded(data, name), name, "\t")


def _header(text: str, separator: str) -> list[str]:
    try:
        return next((line for line in _cells(text, separator) if line), [])
    except csv.Error:
        return []


def _cells(text: str, separator: str) -> Iterator[list[str]]:
    before = csv.field_size_limit(sys.maxsize)  # texts may be longer than its 128 kB
    try:
        yield from csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    finally:
        csv.field_size_limit(before)


def _separated(text: str, name: str, separator: str) -> list[Row]:
    try:
        header, *body = [line for line in _cells(text, separator) if line] or [[]]
    except csv.Error as error:
        raise ExpungeError(f"{name}: broken CSV ({error}).") from error
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise ExpungeError(f"{name}: more than one column is called {', '.join(twice)}.")
    sign = {",": "commas", "\t": "tabs"}.get(separator, f"'{separator}'")

    def row(item: tuple[int, list[str]]) -> Row:
        number, cells = item
        origin = f"{name}, row {number}"
        if len(cells) != len(header):
            raise ExpungeError(
                f"{origin}: {len(cells)} cells, but {len(header)} columns ({', '.join(header)}). "
                f"A text with {sign} needs double quotes around it."
            )
        return Row(origin, dict(zip(header, cells, strict=True)), flat=True)

    return each(enumerate(body, start=1), row, name)


def _parquet(data: bytes, name: str) -> list[Row]:
    try:
        # Few rows at once: a small file can hold one long text a million times over.
        return _rows_of(pq.ParquetFile(pa.BufferReader(data)).iter_batches(batch_size=ROWS_AT_ONCE), data, name)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ExpungeError(f"{name}: broken Parquet, or too large to unpack ({error}).") from error


def _arrow(data: bytes, name: str) -> list[Row]:
    try:
        return _rows_of(pa.ipc.open_stream(pa.BufferReader(data)), data, name)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ExpungeError(f"{name}: broken Arrow stream, or too large to unpack ({error}).") from error


def _rows_of(batches: Iterable[pa.RecordBatch], data: bytes, name: str) -> list[Row]:
    rows: list[Row] = []
    size = 0
    for batch in batches:
        found = batch.to_pylist()
        size += sum(map(_size, found))
        check_unpacked(size, len(data), name)
        rows += [Row(f"{name}, row {n}", values) for n, values in enumerate(found, len(rows) + 1)]
    return rows


def _size(value: Any) -> int:
    """Roughly the bytes of a value as Python holds it; Arrow's own count takes a text that repeats once."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def check_unpacked(size: int, packed: int, name: str) -> None:
    """Raise where a file unpacks to more bytes than are taken."""
    if size > LARGEST:
        raise ExpungeError(
            f"{name}, of {packed / 1e6:.1f} MB, unpacks to more than {LARGEST / 1e9:.0f} GB. Keep only the rows and "
            "columns that are to be used."
        )


def _text_lines(data: bytes, name: str) -> list[Row]:
    lines = enumerate(decoded(data, name).split("\n"), start=1)
    return [Row(f"{name}, line {n}", {"text": line.removesuffix("\r")}) for n, line in lines if line.strip()]


def passages(text: str, longest: int) -> list[str]:
    """One running text, cut at line ends into passages of at most `longest` characters; longer lines at blanks.

    Nothing but the breaks between passages is left out. Only a word that is longer by itself exceeds the length.
    """
    found: list[str] = []
    for piece in _pieces(text, longest):
        if found and len(found[-1]) + len(piece) <= longest:
            found[-1] += piece
        else:
            found.append(piece)
    return [passage.strip() for passage in found if passage.strip()]


def _pieces(text: str, longest: int) -> Iterator[str]:
    """Lines, and the words of lines that are too long, each with the blanks that follow it."""
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        yield from [line] if len(line) <= longest else re.findall(r"\s*\S+\s*", line)


READERS: dict[str, Callable[[bytes, str], list[Row]]] = {
    ".json": _json,
    ".jsonl": _json_lines_or_array,
    ".ndjson": _json_lines_or_array,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _text_lines,
}
