"""Multiple choice in the shape of WMDP and MMLU (Li et al. 2024, arXiv:2403.03218), and texts to forget and to keep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError, unknown
from expunge.data.corpus import Corpus, Example
from expunge.data.formats import READERS
from expunge.data.reading import read_dataset, read_file
from expunge.data.row import Row
from expunge.data.schema import examples

HUB = "cais/wmdp"
TASKS = ("wmdp_bio", "wmdp_chem", "wmdp_cyber")
LETTERS = "ABCDEFGHIJ"

_HEAD = "The following are multiple choice questions (with answers) about {subject}.\n\n"
_NEEDED = ("question", "choices", "answer")
_OF_TASK = {"wmdp_bio": "biology", "wmdp_chem": "chemistry", "wmdp_cyber": "cybersecurity"}


def wmdp(
    *,
    path: str | Path | None = None,
    tasks: tuple[str, ...] | None = None,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
    subjects: dict[str, str] | None = None,
) -> Corpus:
    """Questions with lettered choices, one split a task, and the texts that are forgotten and kept.

    Each example asks the question as lm-evaluation-harness does, without examples before it; its completion is the
    right letter and its wrong answers are the other letters.

    Args:
        path: folder of <task>.jsonl (or .json, .csv, .parquet) files, or one such file, with `question`, `choices` (a
            list), `answer` (position from 0, or the letter) and, where there is one, `subject`. None: from the hub,
            `cais/wmdp`.
        tasks: names of the tasks; None: all files of the folder, or WMDP's three.
        forget: texts to forget, any form that the source `files` reads one set from.
        retain: texts to keep, likewise.
        subjects: task to subject, for rows without a `subject` of their own.

    Raises:
        ExpungeError: no such file or task, or a row of another shape; the message names it.
    """
    rows = _local(Path(path).expanduser(), tasks) if path is not None else _hub(tasks)
    named = {**_OF_TASK, **(subjects or {})}
    splits = {task: tuple(_asked(row, named.get(task)) for row in found) for task, found in rows.items()}
    for name, source in (("forget", forget), ("retain", retain)):
        if source is not None:
            splits[name] = examples(_texts(source), what=f"{name} ({source})")
    return Corpus(splits, name="wmdp")


def _local(path: Path, wanted: Sequence[str] | None) -> dict[str, list[Row]]:
    if path.is_file():
        return {path.stem: read_file(path)}
    if not path.is_dir():
        raise ExpungeError(f"wmdp: nothing at '{path}'. Name a folder of <task>.jsonl files, or one such file.")
    files = {p.stem: p for p in sorted(path.iterdir()) if p.suffix.lower() in READERS}
    for task in wanted or ():
        if task not in files:
            raise unknown("task", task, files, came_from=str(path))
    if not files:
        raise ExpungeError(f"wmdp: '{path}' holds no {', '.join(READERS)} file.")
    return {task: read_file(files[task]) for task in wanted or files}


def _hub(wanted: Sequence[str] | None) -> dict[str, list[Row]]:
    for task in wanted or ():
        if task not in TASKS:
            raise unknown("task", task, TASKS, came_from=HUB)
    return {task: read_dataset(f"{HUB}:{task.replace('_', '-')}:test") for task in wanted or TASKS}


def _texts(source: str | Path) -> list[Row]:
    path = Path(source).expanduser()
    return read_file(path) if path.exists() or path.suffix.lower() in READERS else read_dataset(str(source))


def _asked(row: Row, subject: str | None) -> Example:
    missing = [column for column in _NEEDED if column not in row.values]
    if missing:
        raise ExpungeError(
            f"wmdp: {row.origin} has no {', '.join(missing)}; it holds {', '.join(row.values)}. "
            f"Rows need {', '.join(_NEEDED)}."
        )
    question, choices, answer = (row.values[column] for column in _NEEDED)
    if not isinstance(choices, list | tuple) or not 2 <= len(choices) <= len(LETTERS):
        raise ExpungeError(f"wmdp: {row.origin}: 'choices' must be a list of 2 to {len(LETTERS)}; got {choices!r:.80}.")
    right = _position(answer, len(choices), row.origin)
    about = row.values.get("subject") or subject
    letters = LETTERS[: len(choices)]
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    head = _HEAD.format(subject=str(about).replace("_", " ")) if about else ""
    return Example(
        kind="completion",
        prompt="\n".join([f"{head}{str(question).strip()}", *lines, "Answer:"]),
        completion=f" {letters[right]}",
        perturbed=tuple(f" {letter}" for i, letter in enumerate(letters) if i != right),
        origin=row.origin,
    )


def _position(answer: Any, choices: int, origin: str) -> int:
    letters = LETTERS[:choices]
    text = str(answer).strip()
    if text in letters and text:
        return letters.index(text)
    if text.isdigit() and int(text) < choices:
        return int(text)
    raise ExpungeError(
        f"wmdp: {origin}: 'answer' must be a position from 0 to {choices - 1} or a letter {letters[0]} to "
        f"{letters[-1]}; got {answer!r}."
    )
