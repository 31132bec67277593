"""The batch that every stage hands on."""

from typing import TypedDict

from torch import Tensor


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
    reference_logits: Tensor
    """Logits that predict each completion token under the start model, likewise, [B, C, V]."""
