"""Parity: an exported file, read by another library, must give answers the probability that the model gives them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tokenizers import pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.scoring import Work, teacher_forced
from expunge.models.anatomy import evaluating
from expunge.models.load import quiet
from expunge.release.gguf_architectures import architecture_of
from expunge.release.gguf_file import STORED, Kind

SETS = ("forget", "retain")
EXACT = 1e-3
"""Largest difference where every weight is kept as it is stored."""
TOLERANCE: Mapping[str, float] = {"f32": EXACT, "f16": 0.01, "bf16": 0.03, "q8_0": 0.05}
"""Largest difference by type, where weights are rounded."""
NAMED = 5
"""Rows that an error names."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the file is from the model on one set."""

    split: str
    rows: tuple[int, ...]
    """Positions in the set of the rows that were compared."""
    of: int
    """Rows of the set."""
    differences: tuple[float, ...]
    """Of each row, see `difference`."""
    tolerance: float

    @property
    def largest(self) -> float:
        """The largest difference; NaN where one is."""
        return float(np.max(self.differences))

    @property
    def missed(self) -> tuple[int, ...]:
        """Positions of the rows that are further off than the tolerance; those without a number too."""
        return tuple(row for row, off in zip(self.rows, self.differences, strict=True) if not off <= self.tolerance)

    def as_json(self) -> dict[str, Any]:
        """For the manifest of a release."""
        told = {name: value for name, value in asdict(self).items() if name not in ("rows", "differences")}
        return {**told, "rows": len(self.rows), "largest": self.largest}


def difference(before: Float[np.ndarray, " c"], after: Float[np.ndarray, " c"]) -> float:
    """How far the log-probabilities of a completion's C tokens are apart.

    The mean absolute difference, in nats; divided by the mean size of the log-probabilities where that is above 1,
    since rounding moves an improbable answer in proportion.
    """
    return float(np.abs(after - before).mean() / max(1.0, float(np.abs(before).mean())))


def tolerance(stored: str, kind: Kind) -> float:
    """The largest difference that is allowed, for weights stored in one type and exported in another."""
    same = STORED.get(stored) == kind or kind == "f32"
    return EXACT if same else TOLERANCE[kind]


@dataclass(frozen=True)
class Rows:
    """The rows of one set that are compared."""

    positions: tuple[int, ...]
    of: int
    encoded: tuple[Encoded, ...]


def rows_of(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, *, template: Template, max_length: int, limit: int | None
) -> dict[str, Rows]:
    """Rows of the forget and the retain set, evenly spaced where there are more than the limit."""
    found = {}
    for split in SETS:
        n = len(corpus[split])
        k = n if limit is None else min(n, limit)
        positions = tuple(i * n // k for i in range(k))
        encoded = encode([corpus[split][i] for i in positions], tokenizer, template=template, max_length=max_length)
        found[split] = Rows(positions, n, tuple(encoded))
    return found


def scored(
    model: nn.Module, rows: Mapping[str, Rows], progress: Progress | None = None
) -> dict[str, list[Float[np.ndarray, " _"]]]:
    """Log-probabilities of each row's completion, [tokens] each."""
    with evaluating(model):
        return {
            split: [
                score.logprobs
                for score in teacher_forced(model, some.encoded, work=Work(progress=under(progress, split)))
            ]
            for split, some in rows.items()
        }


def compared(
    rows: Mapping[str, Rows],
    before: Mapping[str, Sequence[Float[np.ndarray, " _"]]],
    after: Mapping[str, Sequence[Float[np.ndarray, " _"]]],
    allowed: float,
) -> tuple[Parity, ...]:
    """Set by set, how far the file is from the model."""
    return tuple(
        Parity(
            split=split,
            rows=some.positions,
            of=some.of,
            differences=tuple(difference(a, b) for a, b in zip(before[split], after[split], strict=True)),
            tolerance=allowed,
        )
        for split, some in rows.items()
    )


def check_parity(found: Sequence[Parity]) -> None:
    """Raise where rows are further off than is allowed; the message names them."""
    wrong = [one for one in found if one.missed]
    if not wrong:
        return
    told = "; ".join(
        f"{one.split}: {len(one.missed)} of {len(one.rows)} rows ({_named(one.missed)}), the largest difference is "
        f"{one.largest:.3g}"
        for one in wrong
    )
    raise ExpungeError(
        f"the GGUF file does not answer as the model does, so it was not kept. Allowed is a difference of "
        f"{wrong[0].tolerance:g}; {told}. Take another type (dtype=f32), or form=merged."
    )


def _named(positions: Sequence[int]) -> str:
    """Rows as people count them, from 1."""
    more = f" and {len(positions) - NAMED} more" if len(positions) > NAMED else ""
    return f"row{'s' * (len(positions) > 1)} {', '.join(str(one + 1) for one in positions[:NAMED])}{more}"


def check_tokens(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    rows: Mapping[str, Rows],
    *,
    template: Template,
    max_length: int,
) -> None:
    """Raise where the tokenizer in a file writes other tokens than those of the rows; the message names the first.

    Args:
        file: with or without weights.
        tokenizer: the model's, by which the rows were encoded.
        corpus: the sets that the rows are of.
        rows: from `rows_of`.
        template: how questions were framed.
        max_length: longest row, in tokens.
    """
    held = read_tokenizer(file)
    for split, some in rows.items():
        other = encode([corpus[split][i] for i in some.positions], held, template=template, max_length=max_length)
        wrong = [(i, a, b) for i, a, b in zip(some.positions, some.encoded, other, strict=True) if a.ids != b.ids]
        if wrong:
            position, own, found = wrong[0]
            raise ExpungeError(
                f"the tokenizer in a GGUF file would write other tokens than the model's: {split}, {len(wrong)} of "
                f"{len(other)} rows ({_named([i for i, *_ in wrong])}). First in row {position + 1}: "
                f"{_first_other(own, tokenizer, found, held)}. Take form=merged."
            )


def _first_other(
    own: Encoded, tokenizer: PreTrainedTokenizerBase, found: Encoded, held: PreTrainedTokenizerBase
) -> str:
    """The first token in which two rows differ, as both tokenizers write it."""
    at = next(at for at, (a, b) in enumerate(zip_longest(own.ids, found.ids)) if a != b)
    ours, theirs = (_token(row, of, at) for row, of in ((own, tokenizer), (found, held)))
    return f"token {at + 1} is {ours}, and {theirs} there"


def _token(row: Encoded, tokenizer: PreTrainedTokenizerBase, at: int) -> str:
    if at >= len(row.ids):
        return "nothing"
    return f"{tokenizer.convert_ids_to_tokens(row.ids[at])!r} (id {row.ids[at]})"


def read_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that a file holds, as transformers reads it."""
    with quiet():
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    if _pre(file) == "smollm":  # which that reader does not know: digits one by one, then as GPT-2 does
        digits = pre_tokenizers.Digits(individual_digits=True)
        cut = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        found.backend_tokenizer.pre_tokenizer = cut
    return found


def _pre(file: Path) -> str:
    from gguf import GGUFReader

    return str(GGUFReader(file).fields["tokenizer.ggml.pre"].contents())


def read_model(file: Path, like: Any) -> PreTrainedModel:
    """The model that a file holds, as transformers reads it, in 32 bits on the CPU.

    Args:
        file: the file.
        like: configuration of the model that was written, for the settings that this reader leaves at its defaults.
    """
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
        for name in architecture_of(like).unread:
            setattr(config, name, getattr(like, name))
        found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, config=config, dtype="float32"
        )
    return found.eval()
