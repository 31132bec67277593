"""Pruning: set small weights to zero, as for deployment, and see what comes back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget, asked
from expunge.attack.measuring import Asker, restored
from expunge.core.checks import require_between
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.models.load import refuse_adapters
from expunge.models.matrices import matrices_out_in
from expunge.results.attacked import Leak


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    shares: Sequence[float] = (0.1, 0.3),
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """What the model gives of the forget set without its smallest weights.

    Args:
        model: a causal language model without adapters; put back afterwards.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        shares: shares of the weights of each output row that become 0, those of smallest size.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: a share outside [0, 1], or adapters that are not merged.
    """
    for share in shares:
        require_between("shares", share, 0, 1)
    refuse_adapters(model)
    found = []
    for share in shares:
        asker = Asker(tokenizer, template, max_length, progress=under(progress, f"prune {share:.0%}"))
        with restored(model):
            drop_smallest(model, share)
            found.append(asker.known(model, f"prune.{share:g}", corpus["forget"]))
    return found


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """All facts at every share."""
    return asked([f"prune.{share:g}" for share in settings["shares"]], len(corpus["forget"]))


@torch.no_grad()
def drop_smallest(model: PreTrainedModel, share: float) -> None:
    """Set the smallest weights of each output row of the blocks' linear layers to 0, in place."""
    for rows in matrices_out_in(model):
        count = int(share * rows.shape[1])
        if count:
            rows.scatter_(1, rows.abs().topk(count, largest=False).indices, 0.0)
