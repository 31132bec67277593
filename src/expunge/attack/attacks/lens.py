"""Logit lens: read the answer off every block's output, as if the model ended there."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget
from expunge.attack.hidden import answer_rows, batches, block_outputs, blocks_skipped, frozen, seen
from expunge.core.batch import Encoded
from expunge.core.distributed import share_of
from expunge.core.logprobs import masked_sum
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.models.anatomy import blocks, head
from expunge.models.vocabulary_head import HEAD_CHUNK
from expunge.results.attacked import Leak


def lens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """Probability of each answer, read by the model's own final norm and head at the block where it is largest.

    The value of a fact is the largest over blocks of the geometric mean of its answer's token probabilities, each given
    the true tokens before it. The last block is the model's own output.

    Args:
        model: only read.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Source: nostalgebraist's logit lens; as a test of unlearning, arXiv:2309.17410.
    """
    rows = answer_rows(model, tokenizer, corpus["forget"], template=template, max_length=max_length)
    longest = max(len(row.ids) - row.start for row in rows)
    share = share_of(model)
    parts = share.mine(batches(rows, size=max(1, HEAD_CHUNK // (longest * _vocabulary(model)))))
    depth = len(blocks(model))
    logprobs, ranks = torch.zeros(depth, len(rows)), torch.zeros(depth, len(rows))
    with frozen(model), torch.no_grad():
        for done, numbers in enumerate(parts):
            here = [rows[i] for i in numbers]
            outputs = block_outputs(model, here)
            with blocks_skipped(model) as put:
                for block, states in enumerate(outputs):
                    put(states)
                    logprobs[block, numbers], ranks[block, numbers] = _read(model, here)
                    if progress:
                        progress("logit lens", done * depth + block + 1, len(parts) * depth, "")
    probabilities, ranks = share.summed(logprobs).exp(), share.summed(ranks)
    values, best = probabilities.max(0)
    return [
        Leak(
            name="lens",
            measure="geometric mean probability",
            facts=tuple(range(len(rows))),
            values=tuple(values.tolist()),
            about={
                "probability_by_block": probabilities.mean(1).tolist(),
                "rank_by_block": ranks.mean(1).tolist(),
                "best_block": best.tolist(),
            },
        )
    ]


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """Every fact passes the blocks once; only norm and head compute once a block."""
    return Budget(forms=("lens",), scored=len(corpus["forget"]))


def _read(model: PreTrainedModel, rows: Sequence[Encoded]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Mean log-probability and mean rank (1: the most probable) of the answer's tokens, for each row of one batch."""
    found = seen(model, rows, "token_logprobs", "logits")
    assert found.token_logprobs is not None and found.logits is not None
    chosen = found.logits.gather(-1, found.targets.unsqueeze(-1))
    ranks = 1.0 + (found.logits > chosen).sum(-1)
    means = [masked_sum(v, found.completion_mask) / found.counts for v in (found.token_logprobs, ranks)]
    return means[0].float().cpu(), means[1].float().cpu()


def _vocabulary(model: PreTrainedModel) -> int:
    return int(head(model).weight.shape[0])  # type: ignore[union-attr, index, arg-type]
