"""Training data extraction: texts that a model recites, as token ids or as text (Jang et al., arXiv:2210.01504)."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.core.checks import ExpungeError, require_at_least
from expunge.data.corpus import Corpus, Example
from expunge.data.reading import read_file
from expunge.data.row import Row
from expunge.data.schema import examples

ARRAY = ".npy"


def tdec(
    *,
    forget: str | Path,
    retain: str | Path | None = None,
    holdout: str | Path | None = None,
    path: str | Path | None = None,
    array_tokenizer: str | Path | None = None,
    sequences: int = 32,
    skip: int = 0,
    columns: Mapping[str, str] | None = None,
) -> Corpus:
    """Plain texts to forget, such as those of the training data extraction challenge.

    A set is a file of texts (CSV, JSON, JSON lines or Parquet with a column `text`, or .txt with a text a line), or an
    array of token ids, [N, T], as the challenge publishes them (.npy). Arrays that continue each other are joined row
    by row with `+`, unless a file bears the whole name: `train_preprefix.npy+train_prefix.npy+train_suffix.npy` gives
    100 + 50 + 50 tokens.

    Args:
        forget: the texts to forget.
        retain: texts to keep, all of them.
        holdout: texts that no model was trained on, all of them.
        path: folder that the files are in; None: they are named with theirs.
        array_tokenizer: folder or hub id of the tokenizer that the ids of arrays belong to (GPT-Neo's, for the
            challenge's).
        sequences: how many texts of the forget set are taken; 32 as published.
        skip: texts of the forget set before these; 32, 64, ... give further forget sets.
        columns: `{"text": "their name"}` where a file calls its column otherwise.

    Raises:
        ExpungeError: no such file, an array that is not [N, T] whole numbers or holds ids beyond the tokenizer, arrays
            of different length, too few texts, or an array without `array_tokenizer`.
    """
    require_at_least("sequences", sequences, 1)
    require_at_least("skip", skip, 0)
    named = {"forget": forget, "retain": retain, "holdout": holdout}
    folder = None if path is None else Path(path).expanduser()
    splits: dict[str, tuple[Example, ...]] = {}
    for split, source in named.items():
        if source is None:
            continue
        whole = _within(folder, str(source))
        files = [whole] if whole.is_file() else [_within(folder, part) for part in str(source).split("+")]
        last = skip + sequences if split == "forget" else None
        rows = _rows(files, split, array_tokenizer, last)
        if last is not None:
            if len(rows) < last:
                raise ExpungeError(
                    f"tdec: sequences={sequences} after skip={skip} need {last} texts, and {source} holds {len(rows)}."
                )
            rows = rows[skip:last]
        splits[split] = examples(rows, what=f"tdec's {split} ({source})", columns=columns)
    return Corpus(splits, name="tdec")


def _within(folder: Path | None, name: str) -> Path:
    return Path(name).expanduser() if folder is None else folder / name


def _rows(files: list[Path], split: str, tokenizer: str | Path | None, last: int | None) -> list[Row]:
    arrays = [file.suffix == ARRAY for file in files]
    if not any(arrays):
        if len(files) > 1:
            raise ExpungeError(
                f"tdec: {split}: only arrays of token ids continue each other, and {files[0].name} is none."
            )
        return read_file(files[0])
    if not all(arrays):
        raise ExpungeError(f"tdec: {split} joins arrays of token ids with other files; it must be all arrays.")
    if tokenizer is None:
        raise ExpungeError(
            f"tdec: {files[0].name} holds token ids. Name the tokenizer they belong to: array_tokenizer=<folder or id>."
        )
    parts = [_array(file) for file in files]
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        told = ", ".join(f"{file.name} {len(part)}" for file, part in zip(files, parts, strict=True))
        raise ExpungeError(f"tdec: arrays that continue each other must have as many rows each; these have {told}.")
    return _decoded(np.concatenate(parts, axis=1)[:last], tokenizer, files[0].name)


def _array(file: Path) -> NDArray[Any]:
    if not file.is_file():
        raise ExpungeError(f"tdec: no file at '{file}'.")
    try:
        found = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ExpungeError(f"tdec: cannot read {file.name} as an array of numbers ({error}).") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not np.issubdtype(found.dtype, np.integer):
        what = f"{found.dtype}, shape {found.shape}" if isinstance(found, np.ndarray) else "several arrays"
        raise ExpungeError(f"tdec: {file.name} must hold whole numbers, [sequences, tokens]; it holds {what}.")
    return found.astype(np.int64)


def _decoded(ids: NDArray[Any], name: str | Path, file: str) -> list[Row]:
    from transformers import AutoTokenizer  # takes a second to import, which those with texts need not wait for

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise ExpungeError(f"tdec: array_tokenizer={name} is not available: {error}") from error
    if ids.size and not 0 <= ids.min() <= ids.max() < len(tokenizer):
        raise ExpungeError(
            f"tdec: {file} holds ids from {ids.min()} to {ids.max()}, and the tokenizer {name} has {len(tokenizer)}."
        )
    texts = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in ids.tolist()]
    again = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    differing = sum(list(one) != other for one, other in zip(again, ids.tolist(), strict=True))
    if differing:
        warnings.warn(
            f"{differing} of {len(texts)} rows of {file} are cut into other tokens when their text is read again: ids "
            "in which the tokenizer would not have written it, or of bytes that are no text. They are kept as text.",
            stacklevel=4,
        )
    return [Row(f"{file}, row {number}", {"text": text}) for number, text in enumerate(texts, start=1)]
