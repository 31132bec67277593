"""Your own data: files, dataset ids, Python lists."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from expunge.core.checks import ExpungeError, nearest, require
from expunge.core.manifest import files_digest, several
from expunge.core.surface import assigned
from expunge.data.corpus import Corpus
from expunge.data.reading import is_readable, read_dataset, read_file, read_objects
from expunge.data.row import Row
from expunge.data.schema import Columns, Turns, check_columns, columns_of, examples

Source = str | Path | Iterable[Any]


def files(
    *,
    forget: Source | None = None,
    retain: Source | None = None,
    holdout: Source | None = None,
    sets: Mapping[str, Source] | None = None,
    columns: Columns | None = None,
    turns: Turns = "last",
    reads: Collection[str] | None = None,
) -> Corpus:
    """A corpus out of your own data.

    Each set is a .json (an array of objects, or an object a line), .jsonl, .csv, .tsv, .parquet or .arrow file, a .txt
    file (a plain text a line), each also compressed as .gz or .zst; a folder of such files, or one that `save_to_disk`
    wrote; a dataset that the `datasets` library finds by `id`, `id:split` or `id:config:split`; a list of dictionaries;
    or a `datasets.Dataset`. Several files are named with commas, `a.jsonl,b.csv`, and read one after the other. Rows
    hold `question` and `answer`; or `prompt` and `completion`, joined as they are; or `messages`, a list of {role,
    content}; or `text`. The forms of Alpaca (`instruction`, `input`, `output`) and ShareGPT (`conversations`) are read
    as questions and messages. Beside them rows may hold `paraphrased_question`, `paraphrased_answer`,
    `perturbed_answer` (a list of wrong answers) and `alternate` (an answer to be preferred, or a list of them). In CSV,
    lists are written as JSON and an empty cell is no value.

    Args:
        forget: what is to be forgotten.
        retain: what is to be kept.
        holdout: what no model was trained on.
        sets: more sets, by name: further retain sets, for example.
        columns: our names to yours where they differ, for all sets: `{"question": "q", "answer": "a"}`, or for one:
            `{"holdout": {"question": "asked"}}`. Each must be found in at least one of its sets.
        turns: Which messages of the assistant are supervised in a conversation: the `last`, or `all`, each as a row of
            its own with everything before it.
        reads: names of the sets that are read; the others are neither read nor checked. None: all.

    Returns:
        A corpus with those of the splits `forget`, `retain` and `holdout` that were given, and the further sets.

    Raises:
        ExpungeError: nothing given, or something that cannot be read; the message says what came and what to do.
    """
    require(turns in ("last", "all"), f"turns must be last or all; got {turns!r}.")
    named: dict[str, Source | None] = {"forget": forget, "retain": retain, "holdout": holdout}
    given = {name: source for name, source in named.items() if source is not None}
    for name in sets or {}:
        if name in (*named, "alternate"):
            hint = f"Name the file with {assigned(**{name: '<file>'})}, or choose" if name in named else "Choose"
            raise ExpungeError(f"sets names a set '{name}', which is a name of ours. {hint} another name for the set.")
    given |= sets or {}
    if not given:
        raise ExpungeError("no data: name at least one of forget, retain and holdout (a file, a dataset id or a list).")
    wanted = {name: source for name, source in given.items() if reads is None or name in reads}
    if not wanted:
        asked = [*(reads or ())]
        near = nearest(asked[0], given) if asked and asked[0] not in named else []
        hint = f"Did you mean '{near[0]}'?" if near else f"Name it: {assigned(**dict.fromkeys(asked, '<file>'))}."
        raise ExpungeError(f"this reads the set {', '.join(asked)}, and what came is {', '.join(given)}. {hint}")
    read = {name: _rows(name, source) for name, source in wanted.items()}
    check_columns(read, columns or {}, not_read=[name for name in given if name not in wanted])
    splits = {
        name: examples(
            rows,
            what=_named(name, wanted[name]),
            columns=columns_of(name, rows, columns or {}),
            of=name if len(given) > 1 else "",
            turns=turns,
        )
        for name, rows in read.items()
    }
    local = {name: files_digest(source) for name, source in wanted.items() if is_local(source)}
    digests = {name: digest for name, digest in local.items() if digest is not None}
    apart = tuple(name for name in splits if name != "forget")
    return Corpus(splits, name="files", files=digests, apart=apart)


def is_local(source: Source) -> TypeGuard[str | Path]:
    """Is it a path or several, rather than a dataset id or rows in memory?"""
    return isinstance(source, Path) or (isinstance(source, str) and all(_is_path(str(one)) for one in several(source)))


def _named(name: str, source: Source) -> str:
    return f"{name} ({source})" if isinstance(source, str | Path) else name


def _rows(name: str, source: Source) -> list[Row]:
    if is_local(source):
        return [row for path in several(source) for row in read_file(Path(path))]
    return read_dataset(source) if isinstance(source, str) else read_objects(source, name)


def _is_path(source: str) -> bool:
    # A dataset id has at most one slash, and neither a suffix of ours nor the beginning of a path.
    path = Path(source)
    looks_local = source.startswith((".", "/", "~")) or is_readable(path) or source.count("/") > 1
    return looks_local or path.expanduser().exists()
