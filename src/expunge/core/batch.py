"""Token rows, and how they become padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from expunge.core.logprobs import IGNORED


class Batch(TypedDict, total=False):
    """Right- or left-padded rows. B = rows, T = padded length. The first three keys are always there."""

    input_ids: Tensor
    """Token ids, int64 [B, T]."""
    attention_mask: Tensor
    """1 on real tokens, 0 on padding, int64 [B, T]; made from lengths, never from `ids != pad`."""
    labels: Tensor
    """`input_ids` where the token itself is a completion token (supervised), -100 elsewhere, int64 [B, T]."""
    index: Tensor
    """Position of each row's example in its split, int64 [B]."""
    weights: Tensor
    """What each row counts, 0 or 1, float32 [B]; without it every row counts 1."""
    reference_token_logprobs: Tensor
    """Log-probabilities of each row's completion tokens under the start model, moved to the left edge,
    float32 [B, C]."""
    reference_hidden: Tensor
    """Hidden states at completion tokens under the start model, likewise, [B, C, D]."""
    reference_states: Tensor
    """What the start model's vocabulary head turns into the logits that predict each completion token, likewise,
    [B, C, D]."""


@dataclass(frozen=True)
class Encoded:
    """One token row; its completion is `ids[start:]`."""

    ids: tuple[int, ...]
    start: int
    """Position of the first completion token; at least 1, since something must predict it."""
    ended: bool
    """Does the row close with an end token?"""
    truncated: int
    """Tokens cut off at `max_length`."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What generation starts from: exactly the tokens before the completion."""
        return self.ids[: self.start]


def collate(rows: Sequence[Encoded], *, pad_id: int = 0, index: Sequence[int] | None = None) -> Batch:
    """Right-pad rows to the longest.

    Args:
        rows: token rows, B of them.
        pad_id: what fills the end; any valid id, since padding is masked by length.
        index: position of each row's example in its split.

    Returns:
        A batch of tensors [B, T].
    """
    longest = max(len(row.ids) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED, dtype=torch.long)
    for i, row in enumerate(rows):
        ids = torch.tensor(row.ids)
        input_ids[i, : len(ids)] = ids
        attention_mask[i, : len(ids)] = 1
        labels[i, row.start : len(ids)] = ids[row.start :]
    batch = Batch(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
    if index is not None:
        batch["index"] = torch.tensor(list(index))
    return batch
