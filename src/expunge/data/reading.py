"""Rows of files, folders, datasets and Python lists, each with a name for messages; what they mean is in `schema`."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from expunge.core.checks import ExpungeError, nearest
from expunge.data.formats import COMPRESSED, READERS, content, decoded, format_of, passages
from expunge.data.row import Row, as_row, each, some

SAVED_DATASET, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What `save_to_disk` of the `datasets` library leaves in a folder: of one dataset, of several splits."""


def is_readable(path: Path) -> bool:
    """Does the name of a file say a format that is read here?"""
    return format_of(path) in READERS


def read_file(path: Path) -> list[Row]:
    """Rows of one file, or of all files of a folder.

    A file is a .json (an array of objects, or an object a line), .jsonl, .csv (cells between commas, semicolons, tabs
    or bars, as the first line has them), .tsv, .parquet, .arrow or .txt file (a plain text a line); each also
    compressed, as .gz or .zst. A folder is one that `save_to_disk` of the `datasets` library wrote, or holds such files
    side by side.

    Raises:
        ExpungeError: the file is missing, empty, of another format or broken; the message names the lines.
    """
    path = path.expanduser()
    if not path.exists():
        raise ExpungeError(f"no file at '{path}'. {_neighbors(path)}")
    if path.is_dir():
        return some(_folder(path), str(path))
    if not is_readable(path):
        raise ExpungeError(
            f"'{path.name}': cannot read {path.suffix or 'a file without suffix'}; known are {', '.join(READERS)}, "
            f"each also with {' or '.join(COMPRESSED)}."
        )
    if path.stat().st_size == 0:
        raise ExpungeError(f"'{path}' is empty (0 bytes).")
    return some(READERS[format_of(path)](content(path), path.name), str(path))


def read_passages(path: Path, longest: int) -> list[Row]:
    """One running text, cut into passages of at most `longest` characters, as `passages` does.

    Raises:
        ExpungeError: the file is no UTF-8, or holds nothing but blanks.
    """
    found = passages(decoded(content(path), path.name), longest)
    return some([Row(f"{path.name}, passage {n}", {"text": text}) for n, text in enumerate(found, start=1)], str(path))


def _folder(path: Path) -> list[Row]:
    if (path / SAVED_SPLITS).is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / SAVED_DATASET).is_file())
        if len(splits) != 1:
            raise ExpungeError(
                f"'{path}' holds a dataset with the splits {', '.join(splits) or 'none'}. Name the folder of one: "
                f"{path / (splits or ['<split>'])[0]}"
            )
        path = path / splits[0]
    if (path / SAVED_DATASET).is_file():
        return _saved_dataset(path)
    files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    read = [p for p in files if p.is_file() and is_readable(p)]
    if not read:
        raise ExpungeError(f"'{path}' is a folder without a data file. {_neighbors(path / '-')}")
    others = [p.name for p in files if p not in read]
    not_read = f"; not read: {_listed(others)}" if others else ""
    warnings.warn(f"{path}: read as one set, of {_listed([p.name for p in read])}{not_read}.", stacklevel=2)
    return [row for file in read for row in read_file(file)]


def _listed(names: list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _saved_dataset(path: Path) -> list[Row]:
    import datasets  # takes a second to import, which those with files need not wait for

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ExpungeError(f"'{path}' holds a saved dataset that cannot be read: {error}") from error
    return [as_row(row, f"{path.name}, row {n}") for n, row in enumerate(found, start=1)]


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
    return some([as_row(row, f"{name}, row {n}") for n, row in enumerate(found, start=1)], f"the dataset '{name}'")


def read_objects(rows: object, name: str) -> list[Row]:
    """Rows of a Python list of dictionaries or of a `datasets.Dataset`.

    Raises:
        ExpungeError: not something to iterate over, a dictionary of splits, empty, or entries that are no dictionaries.
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
    return some(each(enumerate(rows, start=1), lambda item: as_row(item[1], f"{name}, entry {item[0]}"), name), name)


def _neighbors(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder '{folder}' is not there either."
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    near = nearest(path.name, names, n=3)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    usable = [name for name in names if is_readable(Path(name))]
    return f"The folder '{folder}' holds {_listed(usable) if usable else 'no data file'}."
