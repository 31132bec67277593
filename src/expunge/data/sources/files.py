"""Your own data: files, dataset ids, Python lists."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from expunge.core.checks import ExpungeError
from expunge.core.manifest import file_digest
from expunge.data.corpus import Corpus
from expunge.data.reading import READERS, Row, read_dataset, read_file, read_objects
from expunge.data.schema import check_columns, examples

Source = str | Path | Iterable[Any]


def files(
    *,
    forget: Source | None = None,
    retain: Source | None = None,
    holdout: Source | None = None,
    sets: Mapping[str, Source] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Corpus:
    """A corpus out of your own data.

    Each set is a .json (an array of objects), .jsonl, .csv or .parquet file, a .txt file (a plain text a line), a
    dataset that the `datasets` library finds by `id`, `id:split` or `id:config:split`, a list of dictionaries, or a
    `datasets.Dataset`. Rows hold `question` and `answer`; or `prompt` and `completion`, joined as they are; or
    `messages`, a list of {role, content} of which the assistant's last is supervised; or `text`. Beside them they may
    hold `paraphrased_question`, `paraphrased_answer`, `perturbed_answer` (a list of wrong answers) and `alternate` (an
    answer to be preferred, or a list of them). In CSV, lists are written as JSON and an empty cell is no value.

    Args:
        forget: what is to be forgotten.
        retain: what is to be kept.
        holdout: what no model was trained on.
        sets: more sets, by name: further retain sets, for example.
        columns: our names to yours where they differ, for all sets: `{"question": "q", "answer": "a"}`. Each must be
            found in at least one set.

    Returns:
        A corpus with those of the splits `forget`, `retain` and `holdout` that were given, and the further sets.

    Raises:
        ExpungeError: nothing given, or something that cannot be read; the message says what came and what to do.
    """
    named: dict[str, Source | None] = {"forget": forget, "retain": retain, "holdout": holdout}
    given = {name: source for name, source in named.items() if source is not None}
    for name in sets or {}:
        if name in (*named, "alternate"):
            raise ExpungeError(f"sets.{name}: that name is in use. Say {name}=<file>, or call the set otherwise.")
    given |= sets or {}
    if not given:
        raise ExpungeError("no data: name at least one of forget, retain and holdout (a file, a dataset id or a list).")
    read = {_named(name, source): _rows(name, source) for name, source in given.items()}
    check_columns(read, columns or {})
    splits = {
        name: examples(rows, what=what, columns=columns) for name, (what, rows) in zip(given, read.items(), strict=True)
    }
    digests = {name: file_digest(Path(source).expanduser()) for name, source in given.items() if _is_local(source)}
    return Corpus(splits, name="files", files=digests)


def _is_local(source: Source) -> TypeGuard[str | Path]:
    return isinstance(source, Path) or (isinstance(source, str) and _is_path(source))


def _named(name: str, source: Source) -> str:
    return f"{name} ({source})" if isinstance(source, str | Path) else name


def _rows(name: str, source: Source) -> list[Row]:
    if _is_local(source):
        return read_file(Path(source))
    return read_dataset(source) if isinstance(source, str) else read_objects(source, name)


def _is_path(source: str) -> bool:
    # A dataset id has at most one slash, and neither a suffix of ours nor the beginning of a path.
    path = Path(source)
    looks_local = source.startswith((".", "/", "~")) or path.suffix.lower() in READERS or source.count("/") > 1
    return looks_local or path.expanduser().exists()
