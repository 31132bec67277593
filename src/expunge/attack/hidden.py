"""What attacks that look inside share: answers as rows, and blocks whose outputs are read or replaced.

B = rows of a batch, T = their longest length, D = hidden size, L = blocks. Rows of a batch are in their order and at
the left edge, so that the output of a block, [B, T, D], holds position t of row i at [i, t].
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.batch import Encoded, collate
from expunge.core.logprobs import masked_sum
from expunge.data.corpus import Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.models.anatomy import blocks, evaluating
from expunge.models.observe import Observed, observe
from expunge.models.placement import input_device
from expunge.models.rows_fit import check_rows_fit

BATCH_TOKENS = 2**12
"""Padded tokens of one batch, of which the outputs of all blocks are held at once."""


def answer_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Example],
    *,
    template: Template | None = None,
    max_length: int = 512,
) -> list[Encoded]:
    """Token rows of questions with their answers, each without its closing end token.

    Args:
        model: has to have an embedding and a position for each token.
        tokenizer: its tokenizer.
        facts: what is encoded.
        template: how questions are framed.
        max_length: longest row in tokens.
    """
    rows = [_body(row) for row in encode(facts, tokenizer, template=template, max_length=max_length)]
    check_rows_fit(model, rows)
    return rows


def _body(row: Encoded) -> Encoded:
    closed = row.ended and len(row.ids) - row.start > 1
    return replace(row, ids=row.ids[:-1], ended=False) if closed else row


def batches(rows: Sequence[Encoded], *, size: int | None = None) -> list[list[int]]:
    """Numbers of rows of like length, longest first: `size` a batch, or as many as `BATCH_TOKENS` hold."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), rows[i].ids))
    found, at = [], 0
    while at < len(order):
        count = size or max(1, BATCH_TOKENS // len(rows[order[at]].ids))
        found.append(order[at : at + count])
        at += count
    return found


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode and without gradients of its own meanwhile; hidden states may have some."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with evaluating(model):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def seen(model: PreTrainedModel, rows: Sequence[Encoded], *names: str) -> Observed:
    """What a model shows at the answers of one batch."""
    return observe(model, {"rows": collate(rows)}, {"rows": frozenset(names)}, together=True)["rows"]


def mean_logprobs(model: PreTrainedModel, rows: Sequence[Encoded]) -> Float[Tensor, " b"]:
    """Mean over the answer's tokens of their log-probability, for each row of one batch."""
    found = seen(model, rows, "token_logprobs")
    assert found.token_logprobs is not None
    return masked_sum(found.token_logprobs, found.completion_mask) / found.counts


@torch.no_grad()
def block_outputs(model: PreTrainedModel, rows: Sequence[Encoded]) -> list[Float[Tensor, "b t d"]]:
    """The output of every block on one batch, L of them, in one pass without the vocabulary head."""
    found: list[Tensor] = []
    last = len(blocks(model)) - 1

    def keep(states: Tensor) -> Tensor:
        found.append(states)
        return states

    with ExitStack() as hooks:
        for block in blocks(model):
            hooks.enter_context(rewritten(block, keep))
        observe(model, {"rows": collate(rows)}, {"rows": frozenset({"hidden"})}, layer=last, together=True)
    return found


@contextmanager
def blocks_skipped(model: PreTrainedModel) -> Iterator[Callable[[Tensor], None]]:
    """Have no block compute; final norm and head read the hidden states, [B, T, D], that were put in last.

    Each block hands on what comes to it, in the form in which it returns its own output.
    """
    forms: list[bool] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: forms.append(isinstance(output, tuple)))
        for block in blocks(model)
    ]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=input_device(model)))
    finally:
        for handle in handles:
            handle.remove()
    put: list[Tensor] = []

    def handing_on(form: bool) -> Callable[..., Any]:
        return lambda states, *_, **__: (states,) if form else states

    try:
        for block, form in zip(blocks(model), forms, strict=True):
            block.forward = handing_on(form)
        with rewritten(blocks(model)[-1], lambda states: put[0] if put else states):
            yield lambda states: put.__setitem__(slice(None), [states])
    finally:
        for block in blocks(model):
            vars(block).pop("forward", None)


@contextmanager
def rewritten(block: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Pass the output of a block, [B, T, D], through a function before later blocks see it.

    A function that knows one batch alone needs a pass without it first: the first pass of a model through its head
    tries some tokens of its own.
    """

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
