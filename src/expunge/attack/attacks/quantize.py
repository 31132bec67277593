"""Quantization: round a finished model's weights to few bits and see whether the knowledge comes back."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.models.load import refuse_adapters
from expunge.models.matrices import as_out_in, linear_layers

BLOCK = 64
NF4 = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)
"""Levels of 4-bit NormalFloat, as shares of a block's largest absolute weight."""
MOST_INT8 = 127


@torch.no_grad()
def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    corpus: Corpus | None = None,
    *,
    bits: int = 4,
) -> PreTrainedModel:
    """Round the linear layers of the decoder blocks to few bits and back, in place and in plain torch.

    4 bits: NF4 over blocks of 64 along each weight, [out, in] row by row, with the block's largest absolute value as
    scale. 8 bits: to the nearest of 255 even steps, scaled by the largest absolute value of each output row. Head,
    embeddings, norms and biases stay. Rounding a second time changes nothing.

    Args:
        model: a causal language model without adapters, changed in place; its weights keep their type.
        tokenizer: not read; every attack is handed the same three.
        corpus: not read, likewise.
        bits: 4 or 8.

    Returns:
        The model.

    Raises:
        ExpungeError: another number of bits, or adapters that are not merged.

    Source: QLoRA, arXiv:2305.14314 (NF4), without double quantization.
    """
    if bits not in (4, 8):
        raise ExpungeError(f"weights are quantized to 4 or 8 bits; got bits={bits!r}.")
    refuse_adapters(model)
    for module in linear_layers(model).values():
        weight = module.weight
        assert isinstance(weight, Tensor)
        seen = as_out_in(module, weight)
        seen.copy_((nf4 if bits == 4 else int8)(seen.float()))
    return model


def nf4(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """The nearest NF4 level of every weight, times its block's scale."""
    flat = weight.reshape(-1)
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4, dtype=weight.dtype, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    shares = torch.where(scales > 0, blocks / scales, 0.0)
    return (levels[torch.bucketize(shares, between)] * scales).view(-1)[: len(flat)].view_as(weight)


def int8(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """The nearest of 255 even steps of every weight, scaled by its row."""
    steps = weight.abs().amax(1, keepdim=True) / MOST_INT8
    return torch.where(steps > 0, (weight / steps).round() * steps, 0.0)


def stability(before: float, after: float) -> float:
    """Q in [0, 1]: `min(before / after, 1)` of a knowledge metric (higher = knows more); 1 where nothing is left after.

    Falls as quantization brings knowledge back.

    Source: arXiv:2506.12618. Departures: the paper prints after / before, which would reward knowledge that returns.
    """
    return 1.0 if after <= 0 else min(max(before / after, 0.0), 1.0)
