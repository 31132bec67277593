"""Records: what one model did on every example. The model is touched once; metrics are numpy on Records. No torch here.

One row is one (prompt, completion) pair of one split. Its columns:

    split       forget, retain, holdout, real_authors, ...
    index       position of the example in its split
    key         content fingerprint of the example
    asked       how it was asked: `question`, `paraphrased_question` or `reworded_question` (made by rule)
    answer      which completion was scored: `answer`, `paraphrased`, `perturbed`, `borrowed` (from other rows, by
                rule), `alternate`, `continuation` or `sequence` (every token of the row but its first)
    number      which of several completions of that role, from 0
    prompt      what was asked, as written in the corpus
    completion  text of the completion
    logprobs    natural-log probability of each completion token (the closing end token included), float32
    hits        for each completion token: is it the model's most probable token there?
    ended       does the completion close with an end token (which ES, EM and membership scores leave out)?
    generation  greedy continuation of the prompt; null where none was asked for
    ends        where each completion token ends in the text of the completion, in characters; null where the tokenizer
                does not say, in a part of a text, and in records made before there was this column

and, null where they were not asked for:

    logprob_means       for each completion token: mean of log p over the vocabulary under p where it is predicted
    logprob_variances   the variance of the same
    gradient_norm       mean over parameter tensors of the 2-norm of the gradient of the mean token loss, the closing
                        end token left out
    tokens              the whole token row, of a `sequence`
    prefix_generations  of a `sequence`: for each completion token that is no hit, in order, what the model writes
                        greedily from the tokens before it, up to the length of the row

Records saved without texts have null for prompt, completion, generation, ends, tokens and prefix_generations, and
instead:

    completion_zlib     bytes of the zlib-compressed completion, int32
    prompt_sha256, completion_sha256, generation_sha256     where hashes were asked for

Records read from another program's log lack `logprobs`, `hits`, `ended` and texts, and hold finished numbers a row
instead, float64, null where the log has none:

    avg_loss             mean negative log-probability of the completion's tokens
    truth_ratio_loss     the same, where the log computed it once more for its truth ratio
    truth_ratio          finished, of the example
    probability          exp(-avg_loss), as the log has it
    rouge1_recall, rougeL_recall, rougeL_f1        of the generation against the completion
    exact_memorization, extraction_strength        of the completion
    mia_loss, mia_zlib, mia_min_k, ...             membership scores
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Float, Int

from expunge.core.checks import ExpungeError, path_of
from expunge.core.manifest import Manifest, fingerprint
from expunge.core.whole import whole_file
from expunge.results.texts import Texts, text_hash

FILE = "records.parquet"

SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("index", pa.int32()),
        ("key", pa.string()),
        ("asked", pa.string()),
        ("answer", pa.string()),
        ("number", pa.int32()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("logprobs", pa.list_(pa.float32())),
        ("hits", pa.list_(pa.bool_())),
        ("ended", pa.bool_()),
        ("generation", pa.string()),
        ("logprob_means", pa.list_(pa.float32())),
        ("logprob_variances", pa.list_(pa.float32())),
        ("gradient_norm", pa.float64()),
        ("tokens", pa.list_(pa.int32())),
        ("prefix_generations", pa.list_(pa.list_(pa.int32()))),
        ("ends", pa.list_(pa.int32())),
    ]
)

LOG_NUMBERS = (
    "avg_loss",
    "truth_ratio_loss",
    "truth_ratio",
    "probability",
    "rouge1_recall",
    "rougeL_recall",
    "rougeL_f1",
    "exact_memorization",
    "extraction_strength",
    "mia_loss",
    "mia_zlib",
    "mia_min_k",
    "mia_min_k_plus_plus",
    "mia_reference",
    "mia_gradnorm",
)
"""Columns of records that were read from a log."""

TEXTS = ("prompt", "completion", "generation")
TOKENS = ("tokens", "prefix_generations")
"""Columns that spell texts as token ids."""
ENDS = "ends"
"""Lengths of words, which go with the texts."""
COMPRESSED = "completion_zlib"
"""Bytes of the zlib-compressed completion, in records without texts."""

_MANIFEST, _DIGEST, _CONTENT = b"expunge.manifest", b"expunge.digest", b"expunge.content"

_ROW = ("split", "index", "asked", "answer", "number")

FinalToken = Literal["by_rule", "as_reference"]
"""What ES, EM and membership scores leave out: the closing end token where there is one, or always the last token."""


def _digest(schema: pa.Schema, manifest: str) -> str:
    """Of what the checksums of a Parquet file's pages do not cover."""
    # Parquet has its own name for what is in a list.
    columns = [[field.name, str(field.type).replace("element:", "item:")] for field in schema]
    return fingerprint([manifest, columns])


def _digest_of_start(path: Path, size: int) -> str:
    """Of a Parquet file's rows, which stand before its closing part."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(min(size, 2**22)):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()


class DamagedRecords(ExpungeError):
    """A file of records that cannot be read, or whose content is not what was written."""


def _damaged(path: Path, error: Exception) -> DamagedRecords:
    why = "it holds no manifest" if isinstance(error, KeyError) else str(error).splitlines()[0]
    return DamagedRecords(
        f"the records at {path} are damaged, or were not written by this version: {why}. Make them again: expunge "
        f"evaluate model=... output={path.parent} --overwrite"
    )


def sound(folder: Path) -> bool:
    """Are there undamaged records in a folder?"""
    try:
        return (folder / FILE).is_file() and len(Records.load(folder)) > 0
    except DamagedRecords:
        return False


@dataclass(frozen=True)
class Records:
    """A table of rows as described at the head of this module, with the manifest of what made it."""

    table: pa.Table
    manifest: Manifest

    def __post_init__(self) -> None:
        missing = [name for name in _ROW if name not in self.table.column_names]
        if missing:
            raise ExpungeError(f"these records lack the columns {missing}; they hold {self.table.column_names}.")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], manifest: Manifest) -> "Records":
        """Records from dictionaries with the columns of `SCHEMA`."""
        return cls(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA), manifest)

    @property
    def splits(self) -> list[str]:
        """Names of the splits held, sorted."""
        return sorted(pc.unique(self.table["split"]).to_pylist())

    def where(self, **equal: str | int) -> "Records":
        """The rows whose columns equal the given values, in order of index and number; possibly none."""
        table = self.table
        for column, value in equal.items():
            table = table.filter(pc.equal(table[column], value))
        return Records(table.sort_by([("index", "ascending"), ("number", "ascending")]), self.manifest)

    def has(self, name: str) -> bool:
        """Is there a value in this column for every row, and at least one row?"""
        return len(self) > 0 and name in self.table.column_names and self.table[name].null_count == 0

    def column(self, name: str) -> list[Any]:
        """One column as Python values."""
        values: list[Any] = self._column(name).to_pylist()
        return values

    def numbers(self, name: str) -> Float[np.ndarray, " rows"]:
        """One column of numbers as float64.

        Raises:
            ExpungeError: no such column, or a row without a value.
        """
        column = self._column(name)
        if column.null_count:
            raise ExpungeError(f"{column.null_count} of {len(self)} rows of these records have no {name}.")
        return np.asarray(column.to_numpy(), dtype=np.float64)

    def arrays(self, name: str) -> list[np.ndarray]:
        """One list column of numbers as numpy arrays: bool for `hits`, float64 for others.

        Raises:
            ExpungeError: no such column, or a row whose completion has no token.
        """
        column = self._column(name)
        lengths = self._lengths(name)
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        flat = flat.astype(np.bool_ if name == "hits" else np.float64)
        return np.split(flat, np.cumsum(lengths)[:-1])

    def token_counts(self) -> Int[np.ndarray, " rows"]:
        """Completion tokens of each row, the closing end token included."""
        return self._lengths("logprobs")

    def mean_losses(self) -> Float[np.ndarray, " rows"]:
        """Mean negative log-probability of each completion's tokens, the closing one included, in nats."""
        if not self.has("logprobs"):
            return self.numbers("avg_loss")
        return np.array([-values.mean() for values in self.arrays("logprobs")])

    def probabilities(self) -> Float[np.ndarray, " rows"]:
        """Geometric mean probability of each completion's tokens, the closing one included; or as a log has it."""
        if not self.has("logprobs") and self.has("probability"):
            return self.numbers("probability")
        return np.asarray(np.exp(-self.mean_losses()))

    def bodies(self, name: str, final_token: FinalToken = "by_rule") -> list[np.ndarray]:
        """`arrays` without the closing end token where there is one (`as_reference`: always without the last token).

        Raises:
            ExpungeError: a completion that has no other token.
        """
        cut = [True] * len(self) if final_token == "as_reference" else self.column("ended")
        found = [values[: len(values) - bool(c)] for values, c in zip(self.arrays(name), cut, strict=True)]
        empty = [i for i, values in enumerate(found) if not len(values)]
        if empty:
            raise ExpungeError(
                f"{self._row(empty[0])} has no completion token besides its last, so it cannot be scored."
            )
        return found

    def with_texts(self, texts: Texts) -> "Records":
        """The records as they are to be saved: with their texts, with hashes of them, or without.

        Token ids spell the same texts and go with them. The size of each completion when compressed stays, which a
        membership score needs.
        """
        if texts == "keep":
            return self
        sizes = [None if text is None else len(zlib.compress(text.encode())) for text in self.column("completion")]
        table = self.table.append_column(COMPRESSED, pa.array(sizes, pa.int32()))
        for name in TEXTS:
            hashes = [None if text is None else text_hash(text) for text in self.column(name)]
            if texts == "hash":
                table = table.append_column(f"{name}_sha256", pa.array(hashes, pa.string()))
        for name in (*TEXTS, *TOKENS, ENDS):
            if name in table.column_names:
                kind = table.schema.field(name).type
                table = table.set_column(table.column_names.index(name), name, pa.nulls(len(self), kind))
        return Records(table, replace(self.manifest, arguments={**self.manifest.arguments, "texts": texts}))

    @property
    def texts(self) -> Texts:
        """Were the texts kept when these records were saved?"""
        kept: Texts = self.manifest.arguments.get("texts", "keep")
        return kept

    def save(self, folder: str | Path) -> Path:
        """Write `records.parquet` into `folder`, whole or not at all; the manifest is inside, so neither is torn."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = self.manifest.text()
        table = self.table.replace_schema_metadata({_MANIFEST: text, _DIGEST: _digest(self.table.schema, text)})
        with whole_file(folder / FILE) as path, path.open("wb") as aside:
            with pq.ParquetWriter(aside, table.schema, compression="zstd", write_page_checksum=True) as into_aside:
                into_aside.write_table(table)
                aside.flush()
                content = [aside.tell(), _digest_of_start(path, aside.tell())]
                into_aside.add_key_value_metadata({_CONTENT: json.dumps(content)})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Records":
        """Read what `save` wrote, and check that it is undamaged.

        Raises:
            ExpungeError: there are none; `DamagedRecords` where the file is damaged.
        """
        path, manifest = path_of("folder", folder) / FILE, cls.manifest_in(folder)
        try:
            size, digest = json.loads(pq.read_metadata(path).metadata[_CONTENT])
            if _digest_of_start(path, size) != digest:
                raise ValueError("its rows are not those that were written")
            table = pq.read_table(path, page_checksum_verification=True)
            return cls(table.replace_schema_metadata(None), manifest)
        except (pa.ArrowException, OSError, KeyError, ValueError, ExpungeError) as error:
            raise _damaged(path, error) from error

    @classmethod
    def manifest_in(cls, folder: str | Path) -> Manifest:
        """The manifest of the records in a folder, without the records.

        Raises:
            ExpungeError: as `load`.
        """
        path = path_of("folder", folder) / FILE
        if not path.is_file():
            raise ExpungeError(
                f"no records at {folder}: expected the file {path}. Make them: expunge evaluate model=... "
                f"output={folder}"
            )
        try:
            schema = pq.read_schema(path)
            text = (schema.metadata or {})[_MANIFEST].decode()
            if schema.metadata[_DIGEST].decode() != _digest(schema, text):
                raise ValueError("its manifest or its columns are not those that were written")
            return Manifest.parsed(text)
        except PermissionError:
            raise
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error

    def compressed_sizes(self) -> Float[np.ndarray, " rows"]:
        """Bytes of each completion's text when compressed with zlib."""
        if COMPRESSED in self.table.column_names:
            return self.numbers(COMPRESSED)
        return np.array([len(zlib.compress(text.encode())) for text in self.column("completion")], dtype=np.float64)

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self.table.column_names:
            raise ExpungeError(
                f"these records have no column '{name}'; they hold {', '.join(self.table.column_names)}."
            )
        return self.table[name]

    def _lengths(self, name: str) -> Int[np.ndarray, " rows"]:
        lengths: np.ndarray = pc.fill_null(pc.list_value_length(self._column(name)), 0).to_numpy().astype(np.int64)
        if len(lengths) and not lengths.all():
            raise ExpungeError(
                f"{self._row(int(lengths.argmin()))} has no completion token in '{name}', so it cannot be scored."
            )
        return lengths

    def _row(self, number: int) -> str:
        row = self.table.select(["split", "index", "answer"]).slice(number, 1).to_pylist()[0]
        return f"example {row['index']} of split '{row['split']}' (completion: {row['answer']})"
