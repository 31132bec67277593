"""Unlearning Depth Score: put hidden states of the unlearned model into the start model, and see what it can still say.

Where the unlearned model's states serve the start model as well as its own, they carry the knowledge. F = facts,
L = blocks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget
from expunge.attack.hidden import answer_rows, batches, block_outputs, frozen, mean_logprobs, rewritten
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.distributed import share_of
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.models.anatomy import blocks, causal_lm
from expunge.models.load import load_model
from expunge.models.rows_fit import check_rows_fit
from expunge.models.skeleton import skeleton
from expunge.results.attacked import Leak

NEEDS_MODEL = True
"""The start model does not give untaught answers in the first place."""


def depth(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    start: str,
    retain: str | None = None,
    least_drop: float = 0.05,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """How much of each answer the start model can still tell from the hidden states of this model.

    Block by block, the output of the start model where it predicts the answer's tokens is replaced by that of this
    model, and the fall of the answer's mean log-probability is measured. With a retain model, whose falls show where
    the knowledge is, the value of a fact is 1 - UDS: 1 where the knowledge is as in the start model, 0 where it is
    erased as deeply as in the retain model. Facts for which the retain model's states lower nothing are left out.
    Without one, the value is the mean over blocks of the share that is left of the answer's geometric mean
    probability, at most 1, which says something next to a control only: blocks in which start and control agree
    cancel out.

    Args:
        model: only read.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        start: folder or hub id of the model before unlearning.
        retain: folder or hub id of the retain model, for the published score; null: no score but the shares.
        least_drop: nats a token that the retain model's states must cost for a block to count, 0 or above.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: a negative drop, or models with other blocks or hidden states than this one.

    Source: Unlearning Depth Score, arXiv:2605.24614. Departures: the value is 1 - UDS, since it says what is left; the
    whole answer without its end token is scored, not a marked entity; the last block's output is replaced before the
    final norm, as that of all others.
    """
    require_at_least("least_drop", least_drop, 0)
    rows = answer_rows(model, tokenizer, corpus["forget"], template=template, max_length=max_length)
    before = _beside(model, start, rows)
    lost = drops(before, model, rows, progress=under(progress, "hidden states of this model"))
    about = {"drop_by_block": lost.mean(0).tolist(), "drops": lost.tolist()}
    if retain is None:
        left = np.exp(-lost).clip(0, 1).mean(1)
    else:
        other = _beside(model, retain, rows)
        unknown = drops(before, other, rows, progress=under(progress, "hidden states of the retain model"))
        left = 1 - depth_score(unknown, lost, least_drop=least_drop)
        about["retain_drop_by_block"] = unknown.mean(0).tolist()
    facts = np.flatnonzero(~np.isnan(left)).tolist()
    return [
        Leak(
            name="depth",
            measure="share of probability left" if retain is None else "1 - unlearning depth score",
            facts=tuple(facts),
            values=tuple(left[facts].tolist()),
            about=about,
            needs_control=retain is None,
        )
    ]


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """For this model, and for the retain model if there is one: both models as they are, and once for each block."""
    sources = 1 if settings["retain"] is None else 2
    passes = 2 + len(blocks(skeleton(settings["start"])))
    return Budget(forms=("depth",), scored=sources * passes * len(corpus["forget"]))


def depth_score(
    retain: Float[np.ndarray, "f l"], unlearned: Float[np.ndarray, "f l"], *, least_drop: float = 0.05
) -> Float[np.ndarray, " f"]:
    """Unlearning Depth Score of each fact, in [0, 1]: 0 intact, 1 erased as deeply as in the retain model.

    Mean over the blocks whose retain drop exceeds `least_drop` of clip(unlearned drop / retain drop, 0, 1), weighted by
    the retain drop; NaN where there is no such block.

    Args:
        retain: fall of the answer's mean log-probability with the retain model's states, [F, L].
        unlearned: the same with the unlearned model's states, [F, L].
        least_drop: nats a token.

    Source: arXiv:2605.24614.
    """
    weights = np.where(retain > least_drop, retain, 0.0)
    erased = np.where(weights > 0, unlearned / np.where(weights > 0, retain, 1.0), 0.0).clip(0, 1)
    total = weights.sum(1)
    return np.where(total > 0, (weights * erased).sum(1) / np.where(total > 0, total, 1.0), np.nan)


@torch.no_grad()
def drops(
    target: PreTrainedModel, source: PreTrainedModel, rows: Sequence[Encoded], *, progress: Progress | None = None
) -> Float[np.ndarray, "f l"]:
    """Fall of each answer's mean log-probability in `target`, in nats, with each block's output taken from `source`.

    Args:
        target: the model that answers.
        source: the model whose states are put where an answer token is predicted.
        rows: questions with answers.
        progress: called with (what, done, total, numbers).
    """
    lost, share = torch.zeros(len(rows), len(blocks(target)), dtype=torch.float64), share_of(target)
    parts = share.mine(batches(rows))
    with frozen(target), frozen(source):
        for done, numbers in enumerate(parts, start=1):
            part = [rows[i] for i in numbers]
            states, plain = block_outputs(source, part), mean_logprobs(target, part)
            predicting = _predicting(part, states[0])
            for block, of_source in enumerate(states):

                def patched(own: Tensor, of_source: Tensor = of_source, where: Tensor = predicting) -> Tensor:
                    return torch.where(where, of_source.to(own), own)

                with rewritten(blocks(target)[block], patched):
                    lost[numbers, block] = (plain - mean_logprobs(target, part)).double().cpu()
            if progress:
                progress("activation patching", done, len(parts), "")
    return share.summed(lost).numpy()


def _predicting(rows: Sequence[Encoded], states: Tensor) -> Tensor:
    """True at the positions that predict an answer token, [B, T, 1]."""
    at = torch.arange(states.shape[1])
    starts, ends = torch.tensor([row.start for row in rows]), torch.tensor([len(row.ids) for row in rows])
    return ((at >= starts[:, None] - 1) & (at < ends[:, None] - 1)).unsqueeze(-1).to(states.device)


def _beside(model: PreTrainedModel, name: str, rows: Sequence[Encoded]) -> PreTrainedModel:
    """Another model in the dtype and on the device of this one, of the same blocks and hidden states."""
    found: PreTrainedModel = causal_lm(load_model(name, dtype=model.dtype, device=str(model.device)))  # type: ignore[assignment]
    own, other = ((len(blocks(m)), m.get_input_embeddings().weight.shape[1]) for m in (model, found))
    if own != other:
        raise ExpungeError(
            f"depth puts hidden states of one model into another: '{name}' has {other[0]} blocks with hidden states of "
            f"size {other[1]}, and the attacked model {own[0]} of size {own[1]}. Name the model that it was made from."
        )
    check_rows_fit(found, rows)
    return found
