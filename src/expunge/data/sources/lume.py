"""LUME: stories to complete and questions about them (Ramakrishna et al. 2025, arXiv:2502.15097)."""

import re
from collections.abc import Mapping
from pathlib import Path

from expunge.core.checks import ExpungeError, unknown
from expunge.data.corpus import Corpus, Example
from expunge.data.formats import READERS
from expunge.data.reading import read_file
from expunge.data.row import Row

_NEEDED = ("id", "input", "output", "task")
_PART = re.compile(r"(sc|qa)\d+$")
_PARTS = {"sc": "completion", "qa": "questions"}


def lume(*, path: str | Path, task: str | None = None, part: str = "train") -> Corpus:
    """The benchmark of SemEval-2025 task 4: completions of texts, and questions about them.

    Splits: `forget` and `retain`, and of each the completions (`forget_completion`, `retain_completion`) and the
    questions (`forget_questions`, `retain_questions`).

    Args:
        path: folder with `forget` and `retain` files (.jsonl, .json, .csv or .parquet) of rows with `id`, `input`,
            `output` and `task`; ids ending in sc<n> are completions, in qa<n> questions. As published, they may be in
            its folder `data` and be called `forget_train-00000-of-00001.parquet`.
        task: only rows of this task, such as `Task1`; None: all.
        part: which of the published files: `train` or `validation`.

    Raises:
        ExpungeError: a file or column that is missing, an id of neither form, or a task that no row has.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ExpungeError(f"lume: no folder at '{folder}'. Name the one with its forget and retain files.")
    lying = [*sorted(folder.glob("data/*")), *sorted(folder.iterdir())]
    files = {p.stem: p for p in lying if p.suffix.lower() in READERS}
    splits: dict[str, tuple[Example, ...]] = {}
    for name in ("forget", "retain"):
        rows = [_checked(row) for file in _files(files, name, part, folder) for row in read_file(file)]
        known = sorted({str(row.values["task"]) for row in rows})
        if task is not None and task not in known:
            raise unknown(f"task of the {name} file", task, known)
        kept = [row for row in rows if task in (None, row.values["task"])]
        parts = {part: tuple(_example(row) for row in kept if _part(row) == part) for part in _PARTS}
        splits[name] = tuple(_example(row) for row in kept)
        splits |= {f"{name}_{_PARTS[part]}": found for part, found in parts.items() if found}
    return Corpus(splits, name="lume")


def _files(files: Mapping[str, Path], name: str, part: str, folder: Path) -> list[Path]:
    """The file of that name, else the published ones of that part, which may be cut in several."""
    published = re.compile(rf"{name}_{re.escape(part)}(-\d+-of-\d+)?")
    found = [files[name]] if name in files else [file for stem, file in files.items() if published.fullmatch(stem)]
    if not found:
        raise ExpungeError(f"lume: '{folder}' holds no {name} file; it holds {', '.join(files) or 'none'}.")
    return found


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
