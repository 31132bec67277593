"""MUSE: news and books (Shi et al. 2024, arXiv:2407.06460)."""

from collections.abc import Callable
from pathlib import Path

from expunge.core.checks import ExpungeError, require_at_least, unknown
from expunge.data.corpus import Corpus, Example
from expunge.data.formats import READERS
from expunge.data.reading import read_dataset, read_file, read_passages
from expunge.data.row import Row

HUB = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
SHOTS = 10

_TEXT, _CUT, _QA = ("text",), ("prompt", "gt"), ("question", "answer")
_PARTS: dict[str, tuple[str, str, tuple[str, ...], bool]] = {
    "forget": ("raw", "forget", _TEXT, True),
    "retain": ("raw", "retain1", _TEXT, True),
    "verbmem": ("verbmem", "forget", _CUT, True),
    "knowmem_forget": ("knowmem", "forget_qa", _QA, True),
    "knowmem_retain": ("knowmem", "retain_qa", _QA, True),
    "privleak_forget": ("privleak", "forget", _TEXT, False),
    "privleak_holdout": ("privleak", "holdout", _TEXT, False),
}
"""Split of ours to configuration, split and columns of theirs, and whether it must be there."""

Read = Callable[[str, str], list[Row] | None]


def muse(*, data: str = "news", path: str | Path | None = None, passage: int = 2000) -> Corpus:
    """One of MUSE's two corpora, with the questions and texts that its measures need.

    Splits: `forget` and `retain` (texts), `verbmem` (prompts and their true continuations), `knowmem_forget` and
    `knowmem_retain` (questions, each after ten answered ones), and where they are there `privleak_forget` and
    `privleak_holdout` (texts).

    Args:
        data: `news` or `books`.
        path: folder with <configuration>/<split>.jsonl (or .json, .csv, .parquet), named as on the hub: `raw/forget`,
            `raw/retain1`, `verbmem/forget`, `knowmem/forget_qa`, `knowmem/forget_qa_icl`, `knowmem/retain_qa`,
            `knowmem/retain_qa_icl`, `privleak/forget`, `privleak/holdout`. None: from the hub. `raw/forget.txt` and
            `raw/retain1.txt` may be running text instead.
        passage: characters at most of the passages that such a text is cut into, at line ends.

    Raises:
        ExpungeError: a file or column that is missing, with its name.

    Departures: muse_bench cuts running text every 2048 tokens, wherever that falls.
    """
    if data not in HUB:
        raise unknown("MUSE corpus", data, HUB)
    require_at_least("passage", passage, 1)
    read = _folder(Path(path).expanduser(), passage) if path is not None else _hub(HUB[data])
    splits: dict[str, tuple[Example, ...]] = {}
    for name, (configuration, split, columns, needed) in _PARTS.items():
        rows = read(configuration, split)
        if rows is None:
            if needed:
                raise ExpungeError(f"muse: no {configuration}/{split} in {path or HUB[data]}.")
            continue
        rows = _checked(rows, columns, f"{configuration}/{split}")
        if columns == _QA:
            shots = read(configuration, f"{split}_icl")
            if shots is None:
                raise ExpungeError(f"muse: no {configuration}/{split}_icl, the answered questions before each other.")
            before = _shots(_checked(shots, _QA, f"{configuration}/{split}_icl"))
            splits[name] = tuple(_question(row, before) for row in rows)
        elif columns == _CUT:
            splits[name] = tuple(_continuation(row) for row in rows)
        else:
            splits[name] = tuple(Example(kind="text", completion=row.values["text"], origin=row.origin) for row in rows)
    return Corpus(splits, name="muse")


def _folder(folder: Path, passage: int) -> Read:
    if not folder.is_dir():
        raise ExpungeError(f"muse: no folder at '{folder}'. Name the one with raw, verbmem and knowmem in it.")

    def read(configuration: str, split: str) -> list[Row] | None:
        found = [folder / configuration / f"{split}{suffix}" for suffix in READERS]
        there = [p for p in found if p.is_file()]
        if there and configuration == "raw" and there[0].suffix == ".txt":
            return read_passages(there[0], passage)
        return read_file(there[0]) if there else None

    return read


def _hub(name: str) -> Read:
    def read(configuration: str, split: str) -> list[Row] | None:
        return read_dataset(f"{name}:{configuration}:{split}")

    return read


def _checked(rows: list[Row], columns: tuple[str, ...], what: str) -> list[Row]:
    for row in rows:
        missing = [column for column in columns if not isinstance(row.values.get(column), str)]
        if missing:
            raise ExpungeError(
                f"muse: {row.origin} of {what} has no text in {', '.join(missing)}; it holds {', '.join(row.values)}. "
                f"Rows of {what} need {', '.join(columns)}."
            )
    return rows


def _shots(rows: list[Row]) -> str:
    return "".join(f"Question: {r.values['question']}\nAnswer: {r.values['answer']}\n\n" for r in rows[:SHOTS])


def _question(row: Row, before: str) -> Example:
    prompt = f"{before}Question: {row.values['question']}\nAnswer: "
    return Example(kind="completion", prompt=prompt, completion=row.values["answer"], origin=row.origin)


def _continuation(row: Row) -> Example:
    return Example(kind="completion", prompt=row.values["prompt"], completion=row.values["gt"], origin=row.origin)
