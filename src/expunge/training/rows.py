"""The rows of a run: which token rows make up each item, and how items become batches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.utils.data import Dataset

from expunge.core.batch import Batch, Encoded, collate
from expunge.core.checks import ExpungeError
from expunge.core.surface import assigned
from expunge.data.corpus import Corpus, Example
from expunge.data.pairing import Pairs, retain_rows
from expunge.data.template import Template
from expunge.data.tokenizing import encode, truncation
from expunge.data.variants import drawn
from expunge.models.reference import ReferenceTable, attach
from expunge.objectives.combine import Stream


@dataclass(frozen=True)
class Item:
    """Row numbers that meet in one item, by stream."""

    rows: Mapping[Stream, list[int]]
    counts: bool = True
    """False: a filler, computed so that every process has as many rows, and weighed 0."""


@dataclass(frozen=True)
class RunRows(Dataset[Item]):
    """All token rows that a run may meet, and the order in which it meets them."""

    pairs: Pairs
    anchor: Stream
    """The stream whose rows are counted as epochs: forget, or a retain set when there is nothing to forget."""
    encoded: Mapping[Stream, Sequence[Encoded]]
    alternate_of: Mapping[tuple[int, int], int] = field(default_factory=dict)
    tables: Mapping[Stream, ReferenceTable] = field(default_factory=dict)
    """Precomputed reference values by stream."""
    notes: Sequence[str] = ()
    """What is to be known of the data, for the manifest: see `Corpus.notes`, and rows that lost their end."""
    sampled: Mapping[Stream, Sequence[int]] = field(default_factory=dict)
    """Numbers of the rows whose answers are scored before and after the run, see `sample`."""

    @property
    def more_retained(self) -> list[Stream]:
        """Retain sets besides the split `retain`."""
        return [name for name in self.encoded if name not in (self.anchor, "retain", "alternate")]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, k: int) -> Item:
        """Row numbers of item k by stream; beyond the last item come fillers."""
        if k >= len(self):
            return replace(self[k - len(self)], counts=False)
        pair = self.pairs[k]
        forget, epoch = int(pair["forget"]), int(pair["epoch"])  # type: ignore[call-overload]
        item: dict[Stream, list[int]] = {self.anchor: [forget]}
        if pair["retain"]:
            item["retain"] = list(pair["retain"])  # type: ignore[call-overload]
        for name in self.more_retained:
            item[name] = retain_rows(
                k, n_retain=len(self.encoded[name]), per_forget=self.pairs.per_forget, seed=self.pairs.seed, name=name
            )
        if "alternate" in self.encoded:
            item["alternate"] = [self.alternate_of[forget, epoch]]
        return Item(item)

    def collate(self, items: Sequence[Item]) -> dict[Stream, Batch]:
        """Items to one padded batch per stream, with reference values where they were precomputed."""
        batches: dict[Stream, Batch] = {}
        for stream in items[0].rows:
            numbers = [number for item in items for number in item.rows[stream]]
            batch = collate([self.encoded[stream][n] for n in numbers], index=numbers)
            if not all(item.counts for item in items):
                batch["weights"] = torch.tensor([float(item.counts) for item in items for _ in item.rows[stream]])
            batches[stream] = attach(batch, self.tables[stream]) if stream in self.tables else batch
        return batches

    def used(self, stream: Stream) -> list[int]:
        """Numbers of the rows of a stream that the run meets."""
        return sorted({number for k in range(len(self)) for number in self[k].rows.get(stream, ())})

    def tokens(self, stream: Stream) -> int:
        """Real tokens of all rows of a stream."""
        return sum(len(row.ids) for row in self.encoded.get(stream, ()))


def run_rows(
    corpus: Corpus,
    tokenizer: object,
    *,
    streams: frozenset[Stream],
    epochs: float,
    seed: int,
    retain_per_forget: int,
    template: Template,
    max_length: int,
) -> RunRows:
    """Tokenize what a run needs and lay out its order.

    Args:
        corpus: holds `forget` and, where the objective needs one, `retain`.
        tokenizer: a Hugging Face tokenizer.
        streams: what the objective needs.
        epochs: passes over the anchor.
        seed: of order, pairing and the choice of alternates.
        retain_per_forget: retain rows for each forget row.
        template: how questions are framed.
        max_length: longest row in tokens.
    """
    anchor: Stream = "forget" if "forget" in streams or "alternate" in streams else "retain"
    splits = [anchor, *sorted(streams - {anchor, "forget", "alternate"})]
    for split in splits:
        if split not in corpus:
            how = {"forget": "forget=<file>.", "retain": "retain=<file>, or use retain_loss=none."}
            raise ExpungeError(
                f"this needs the set '{split}', and the corpus '{corpus.name}' holds only {', '.join(corpus)}. "
                f"Name one: {how.get(split, assigned(sets={split: '<file>'}))}"
            )
    encoded: dict[Stream, list[Encoded]] = {
        split: encode(corpus[split], tokenizer, template=template, max_length=max_length)  # type: ignore[arg-type]
        for split in splits
    }
    where: dict[tuple[int, int], int] = {}
    if "alternate" in streams:
        examples, where = drawn(corpus[anchor], epochs=math.ceil(epochs), seed=seed)
        encoded["alternate"] = encode(examples, tokenizer, template=template, max_length=max_length)  # type: ignore[arg-type]
    paired = anchor == "forget" and "retain" in encoded
    pairs = Pairs(
        n_forget=len(encoded[anchor]),
        n_retain=len(encoded["retain"]) if paired else 0,
        per_forget=retain_per_forget,
        epochs=epochs,
        seed=seed,
    )
    cut = (truncation(corpus[split], encoded[split], max_length) for split in splits)
    notes = [*corpus.notes, *(note for note in cut if note)]
    sampled: dict[Stream, list[int]] = {split: sample(corpus[split]) for split in splits}  # type: ignore[misc]
    return RunRows(pairs, anchor, encoded, where, notes=notes, sampled=sampled)


SAMPLE = 16
"""Rows of each set that are scored before and after a run."""
AT_LEAST = 4
"""Rows of each file of a set, so that the rows of a new request are among them where many earlier ones are forgotten
along with them."""


def sample(examples: Sequence[Example]) -> list[int]:
    """Numbers of up to 16 rows of a set, evenly spaced: as many of each of its files, of many files up to 4 of each."""
    files: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        files.setdefault(example.file, []).append(number)
    each = max(AT_LEAST, SAMPLE // len(files))
    return [of[k * len(of) // min(each, len(of))] for of in files.values() for k in range(min(each, len(of)))]
