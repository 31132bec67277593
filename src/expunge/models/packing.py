"""Rows packed into one sequence, one after the other, so that a pass computes no padding.

Positions begin anew with each row and attention is block-diagonal: no row sees another. transformers makes that of
position ids that begin anew; flash attention takes the ends of the rows instead. A block mask still has every pair of
positions computed. On a CPU that costs more than padding did, so there attention is computed row by row.
"""

import inspect
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from expunge.models.anatomy import backbone, causal_lm

BY_ROWS = "sdpa_by_rows"
"""What transformers knows the attention by that is computed row by row."""
PACK_AT_MOST = 4096
"""Tokens of one pack, where a mask of all its pairs of positions is made."""


@dataclass(frozen=True)
class Packs:
    """How the rows of a model are packed."""

    longest: int | None
    """Tokens of one pack, at most; a single row may be longer. None: all rows go into one."""
    told_ends: bool
    """Does the decoder take the ends of the rows besides their positions?"""

    def divided(self, lengths: Sequence[int]) -> list[list[int]]:
        """The numbers of the rows in each pack, in order."""
        packs: list[list[int]] = []
        room = 0
        for number, length in enumerate(lengths):
            if not packs or (self.longest is not None and length > room):
                packs.append([])
                room = self.longest or 0
            packs[-1].append(number)
            room -= length
        return packs

    def inputs(self, lengths: Sequence[int]) -> dict[str, Any]:
        """What a decoder is given besides the tokens of these rows; tensors are on the host."""
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        if not self.told_ends:
            return {"position_ids": positions}
        ends = torch.tensor([0, *lengths]).cumsum(0).int()
        longest = max(lengths)
        return {
            "position_ids": positions,
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }


_packed: "weakref.WeakKeyDictionary[nn.Module, Packs]" = weakref.WeakKeyDictionary()


def packs_of(model: nn.Module) -> Packs | None:
    """How the rows of a causal language model are packed; None: they are not."""
    return _packed.get(causal_lm(model))


@contextmanager
def packed(model: nn.Module, *, by_rows: bool) -> Iterator[None]:
    """Have `observe` pack the rows of a model meanwhile.

    Args:
        model: a causal language model, possibly wrapped, that `training.packing` has tried.
        by_rows: compute its attention row by row; it is SDPA.
    """
    inner: Any = causal_lm(model)
    attention = inner.config._attn_implementation
    _packed[inner] = Packs(None if is_varlen(attention) else longest_masked(inner), _takes_any(backbone(inner)))
    try:
        if by_rows:
            inner.set_attn_implementation(BY_ROWS)
        yield
    finally:
        if by_rows:
            inner.set_attn_implementation(attention)
        del _packed[inner]


def longest_masked(model: nn.Module) -> int:
    """Tokens of one pack of a model, at most, where a mask is made of it."""
    config = causal_lm(model).config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    return min(PACK_AT_MOST, getattr(config, "max_position_embeddings", PACK_AT_MOST))


def is_varlen(attention: str | None) -> bool:
    """Does an attention take rows by their ends, so that no mask is made?"""
    return "flash" in (attention or "")


def _takes_any(module: nn.Module) -> bool:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _by_rows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """SDPA of one block of the mask after the other; of the whole where the blocks are not known."""
    ends = given.get("cu_seq_lens_q")
    if ends is None or attention_mask is None or given.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)[0], None
    found = []
    for first, end in pairwise(ends.tolist()):
        rows = (part[:, :, first:end] for part in (query, key, value))
        block = attention_mask[:, :, first:end, first:end]
        found.append(sdpa_attention_forward(module, *rows, block, **given)[0])
    return torch.cat(found, 1), None


AttentionInterface.register(BY_ROWS, _by_rows)
AttentionMaskInterface.register(BY_ROWS, sdpa_mask)
