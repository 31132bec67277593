"""Quantization: round the weights to few bits, as deployed models are, and see what comes back."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget, asked
from expunge.attack.measuring import STRENGTH, Asker, restored
from expunge.core.checks import unknown
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.models.load import refuse_adapters
from expunge.models.matrices import matrices_out_in
from expunge.results.attacked import Leak

BLOCK = 64
NF4 = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)
"""Levels of 4-bit NormalFloat, as shares of a block's largest absolute weight."""
MOST_INT8 = 127
GGUF_BLOCK = 32
ALL, BITSANDBYTES = "all", "bitsandbytes"


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    forms: Sequence[str] = ("int8", "nf4"),
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """What each deployed form of the weights gives of the forget set.

    Head, embeddings, norms and biases stay; the linear layers of the decoder blocks are rounded and brought back to
    their own type.

    Args:
        model: a causal language model without adapters; put back afterwards.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        forms: `bfloat16`, `int8` (255 even steps a row), `nf4` (blocks of 64, scaled by the largest absolute value),
            `q8_0` and `q4_0` (GGUF's blocks of 32), `bitsandbytes` (its own 4-bit NF4, where it is installed and the
            model is on a GPU); `all`: every one.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: an unknown form, or adapters that are not merged.

    Source: QLoRA, arXiv:2305.14314 (NF4), without double quantization; llama.cpp's block formats.
    """
    forms = _forms(forms)
    refuse_adapters(model)
    found = []
    for form in forms:
        name = f"quantize.{form}"
        if form == BITSANDBYTES and (lacking := _lacking(next(model.parameters()).device)):
            found.append(Leak(name=name, measure=STRENGTH, facts=(), values=(), not_run=lacking))
            continue
        asker = Asker(tokenizer, template, max_length, progress=under(progress, f"quantize to {form}"))
        with restored(model):
            found.append(asker.known(round_weights(model, form), name, corpus["forget"]))
    return found


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """All facts in every form."""
    return asked([f"quantize.{form}" for form in _forms(settings["forms"])], len(corpus["forget"]))


def _forms(forms: Sequence[str]) -> tuple[str, ...]:
    """The forms that are named; `all` is every one."""
    for form in () if forms == ALL else forms:
        if form not in (*FORMS, ALL):
            raise unknown("form of quantization", form, (*FORMS, ALL))
    return tuple(FORMS) if ALL in forms else tuple(forms)


def _lacking(device: torch.device) -> str:
    """Why bitsandbytes cannot round here; empty where it can."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed"
    return "" if device.type == "cuda" else f"bitsandbytes needs a GPU, and the model is on {device.type}"


@torch.no_grad()
def round_weights(model: PreTrainedModel, form: str) -> PreTrainedModel:
    """Round the linear layers of the decoder blocks, in place; a second time changes nothing."""
    for weight in matrices_out_in(model):
        weight.copy_(FORMS[form](weight.float()))
    return model


def bfloat16(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Every weight with 8 significant bits."""
    return weight.bfloat16().float()


def nf4(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """The nearest NF4 level of every weight, times its block's scale."""
    blocks, scales = _blocks(weight, BLOCK)
    levels = torch.tensor(NF4, dtype=weight.dtype, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    shares = torch.where(scales > 0, blocks / scales, 0.0)
    return _unblocked(levels[torch.bucketize(shares, between)] * scales, weight)


def int8(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """The nearest of 255 even steps of every weight, scaled by its row."""
    steps = weight.abs().amax(1, keepdim=True) / MOST_INT8
    return torch.where(steps > 0, (weight / steps).round() * steps, 0.0)


def q8_0(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """GGUF's Q8_0: blocks of 32 in steps of their largest absolute value / 127, which is kept in float16."""
    blocks, scales = _blocks(weight, GGUF_BLOCK)
    exact = scales / MOST_INT8
    numbers = torch.where(exact > 0, blocks / exact, 0.0)
    rounded = torch.sign(numbers) * (numbers.abs() + 0.5).floor()  # halves away from zero
    return _unblocked(rounded * exact.half().float(), weight)


def q4_0(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """GGUF's Q4_0: blocks of 32 in 16 steps; the value of largest size becomes -8 steps, kept in float16."""
    blocks, _ = _blocks(weight, GGUF_BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    exact = largest / -8
    numbers = torch.where(exact != 0, blocks / exact, 0.0)
    rounded = (numbers + 8.5).floor().clamp(0, 15) - 8
    return _unblocked(rounded * exact.half().float(), weight)


def bitsandbytes(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """NF4 as bitsandbytes itself computes it, on a GPU."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
    rounded: Tensor = dequantize_4bit(packed, state)
    return rounded


def _blocks(weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """[blocks, size] along each weight, row by row, and the largest absolute value of each block."""
    flat = weight.reshape(-1)
    blocks = nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)
    return blocks, blocks.abs().amax(1, keepdim=True)


def _unblocked(blocks: Tensor, like: Tensor) -> Tensor:
    return blocks.view(-1)[: like.numel()].view_as(like)


FORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "bfloat16": bfloat16,
    "int8": int8,
    "nf4": nf4,
    "q8_0": q8_0,
    "q4_0": q4_0,
    BITSANDBYTES: bitsandbytes,
}
