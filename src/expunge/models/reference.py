"""Reference values: what the frozen start model shows, obtained in the cheapest exact way.

What the run will ask for is computed once before training, on the rows that it will meet, and kept (cached by the
content of model and rows, never by path), so that no second model is held. Logits are not kept: the hidden states that
they are made from are, and the start model's vocabulary head. What is too large to keep comes from a frozen copy.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from expunge.core.batch import Batch, Encoded, collate
from expunge.core.cache import cache_path
from expunge.core.manifest import fingerprint
from expunge.core.progress import Progress
from expunge.core.tensor_file import keep_tensors, kept_tensors
from expunge.models.anatomy import causal_lm, evaluating
from expunge.models.fingerprint import model_fingerprint
from expunge.models.lowrank import StartModel
from expunge.models.observe import observe
from expunge.models.placement import input_device
from expunge.models.vocabulary_head import Head, head_of

ReferencePolicy = Literal["auto", "precomputed", "model"]

Reference = nn.Module | Head
"""The frozen start model, or its vocabulary head alone where its hidden states are kept."""

KEPT = ("token_logprobs", "hidden", "states")
"""What is kept of a row; all other observables follow from it or from the rows themselves."""

KEEP_AT_MOST = 2**30
"""Bytes up to which `auto` keeps values; above, it holds a second model."""


@dataclass(frozen=True)
class ReferenceTable:
    """What many rows show under one model at their completion tokens, kept as flat tensors."""

    values: Mapping[str, Tensor]
    """By observable, [completion tokens of all rows kept] or [the same, D or V]."""
    starts: Tensor
    """int64 [rows + 1]: row i holds positions starts[i] to starts[i + 1]; none, for a row that is not kept."""

    def rows(self, observable: str, index: Tensor, lengths: Tensor) -> Tensor:
        """The values of some rows at the left edge, 0 beyond.

        Args:
            observable: one that is kept.
            index: row numbers, [B].
            lengths: completion tokens of these rows, [B].

        Returns:
            [B, C] or [B, C, D or V], C the longest.
        """
        flat = self.values[observable]
        out = flat.new_zeros((len(index), int(lengths.max()), *flat.shape[1:]))
        for i, (row, length) in enumerate(zip(index.tolist(), lengths.tolist(), strict=True)):
            start, end = int(self.starts[row]), int(self.starts[row + 1])
            if end - start != length:
                raise AssertionError(f"row {row} has {length} completion tokens, {end - start} values were kept of it")
            out[i, :length] = flat[start:end]
        return out


def precompute(
    model: nn.Module,
    rows: Sequence[Encoded],
    *,
    observables: Collection[str] = ("token_logprobs",),
    layer: int | None = None,
    positions: str = "holding",
    used: Collection[int] | None = None,
    autocast: bool = False,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> ReferenceTable:
    """What rows show under `model` as it is now, from the cache where its content is known.

    Args:
        model: the start model.
        rows: token rows.
        observables: out of `KEPT`.
        layer: decoder block whose output `hidden` is.
        positions: where hidden states are read.
        used: numbers of the rows that are wanted; None: all.
        autocast: compute in bfloat16 as training does, so that both models round alike.
        batch_size: rows of one forward pass.
        progress: called with (what, rows done, rows in all, numbers).
    """
    wanted = sorted(range(len(rows)) if used is None else set(used))
    names = [name for name in KEPT if name in observables]
    about = {
        "model": model_fingerprint(model),
        "rows": [[i, rows[i].ids, rows[i].start] for i in wanted],
        "dtype": str(next(model.parameters()).dtype),
        "observables": names,
        "hidden": [layer, positions] if "hidden" in names else None,
        "autocast": autocast,
    }
    key = fingerprint(about)
    path = cache_path("reference", key).with_suffix(".safetensors")
    lengths = torch.zeros(len(rows) + 1, dtype=torch.long)
    for i in wanted:
        lengths[i + 1] = len(rows[i].ids) - rows[i].start
    starts = lengths.cumsum(0)
    if (kept := kept_tensors(path, key)) is not None:
        return ReferenceTable(kept[0], starts)
    flat: dict[str, Tensor] = {}
    order = sorted(wanted, key=lambda i: len(rows[i].ids))
    device = input_device(model).type
    with evaluating(model):
        for first in range(0, len(order), batch_size):
            numbers = order[first : first + batch_size]
            batch = collate([rows[i] for i in numbers])
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=autocast):
                seen = observe(model, {"rows": batch}, {"rows": frozenset(names)}, layer=layer, positions=positions)[
                    "rows"
                ]
            for name in names:
                shown = getattr(seen, name).cpu()
                if name not in flat:
                    flat[name] = shown.new_zeros((int(starts[-1]), *shown.shape[2:]))
                for i, values in zip(numbers, shown, strict=True):
                    flat[name][starts[i] : starts[i + 1]] = values[: lengths[i + 1]]
            if progress:
                progress("reference values", first + len(numbers), len(order), "")
    keep_tensors(flat, path, key)
    return ReferenceTable(flat, starts)


def kept_of(names: Collection[str]) -> tuple[str, ...]:
    """Which of `KEPT` some observables follow from."""
    source = {"logprobs": "token_logprobs", "logits": "states"}
    wanted = {source.get(name, name) for name in names}
    return tuple(kept for kept in KEPT if kept in wanted)


def bytes_kept(model: nn.Module, tokens: int, names: Collection[str]) -> int:
    """Bytes that keeping some observables of so many completion tokens takes."""
    config: Any = causal_lm(model).config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    states = config.hidden_size if head_of(model).plain else config.vocab_size
    width: dict[str, int] = {"token_logprobs": 1, "hidden": config.hidden_size, "states": states}
    return 4 * tokens * sum(width[name] for name in kept_of(names))


def frozen_copy(model: nn.Module) -> nn.Module:
    """A second model with the same weights, in eval mode, without gradients."""
    twin = copy.deepcopy(model).eval()
    twin.requires_grad_(False)
    return twin


def start_head(reference: Reference) -> Head:
    """The vocabulary head of the start model."""
    if isinstance(reference, StartModel):
        return reference.head
    return reference if isinstance(reference, Head) else head_of(reference)


def choose(
    policy: ReferencePolicy, needs: Mapping[str, Collection[str]], size: int = 0
) -> Literal["none", "precomputed", "model"]:
    """How reference values are obtained: `none` needed, `precomputed` once, or from a frozen second `model`.

    Args:
        policy: what was asked for.
        needs: observables by stream.
        size: bytes that keeping them would take.
    """
    if not needs:
        return "none"
    if policy == "auto":
        return "precomputed" if size <= KEEP_AT_MOST else "model"
    return policy


def attach(batch: Batch, table: ReferenceTable) -> Batch:
    """The batch with the `reference_...` values of its rows, looked up by `index`."""
    lengths = (batch["labels"] != -100).sum(1)
    found = {f"reference_{name}": table.rows(name, batch["index"], lengths) for name in table.values}
    return cast(Batch, {**batch, **found})
