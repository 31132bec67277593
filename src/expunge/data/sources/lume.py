"""LUME: stories to complete and questions about them (Ramakrishna et al. 2025, arXiv:2502.15097)."""

import re
from pathlib import Path

from expunge.core.checks import ExpungeError, unknown
from expunge.data.corpus import Corpus, Example
from expunge.data.reading import READERS, Row, read_file

_NEEDED = ("id", "input", "output", "task")
_PART = re.compile(r"(sc|qa)\d+$")
_PARTS = {"sc": "completion", "qa": "questions"}


def lume(*, path: str | Path, task: str | None = None) -> Corpus:
    """The benchmark of SemEval-2025 task 4: completions of texts, and questions about them.

    Splits: `forget` and `retain`, and of each the completions (`forget_completion`, `retain_completion`) and the
    questions (`forget_questions`, `retain_questions`).

    Args:
        path: folder with `forget` and `retain` files (.jsonl, .json, .csv or .parquet) of rows with `id`, `input`,
            `output` and `task`; ids ending in sc<n> are completions, in qa<n> questions.
        task: only rows of this task, such as `Task1`; None: all.

    Raises:
        ExpungeError: a file or column that is missing, an id of neither form, or a task that no row has.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ExpungeError(f"lume: no folder at '{folder}'. Name the one with its forget and retain files.")
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in READERS}
    splits: dict[str, tuple[Example, ...]] = {}
    for name in ("forget", "retain"):
        if name not in files:
            raise ExpungeError(f"lume: '{folder}' holds no {name} file; it holds {', '.join(files) or 'none'}.")
        rows = [_checked(row) for row in read_file(files[name])]
        known = sorted({str(row.values["task"]) for row in rows})
        if task is not None and task not in known:
            raise unknown(f"task of the {name} file", task, known)
        kept = [row for row in rows if task in (None, row.values["task"])]
        parts = {part: tuple(_example(row) for row in kept if _part(row) == part) for part in _PARTS}
        splits[name] = tuple(_example(row) for row in kept)
        splits |= {f"{name}_{_PARTS[part]}": found for part, found in parts.items() if found}
    return Corpus(splits, name="lume")


def _checked(row: Row) -> Row:
    missing = [column for column in _NEEDED if not isinstance(row.values.get(column), str)]
    if missing:
        raise ExpungeError(
            f"lume: {row.origin} has no text in {', '.join(missing)}; it holds {', '.join(row.values)}. "
            f"Rows need {', '.join(_NEEDED)}."
        )
    _part(row)
    return row


def _part(row: Row) -> str:
    found = _PART.search(row.values["id"])
    if found is None:
        raise ExpungeError(f"lume: {row.origin}: the id {row.values['id']!r} ends neither in sc<n> nor in qa<n>.")
    return found[1]


def _example(row: Row) -> Example:
    asked, answer = row.values["input"], row.values["output"]
    if _part(row) == "qa":
        return Example(kind="qa", prompt=asked, completion=answer, origin=row.origin)
    return Example(kind="completion", prompt=asked, completion=f" {answer}", origin=row.origin)
