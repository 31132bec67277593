"""Latent perturbation: nudge the hidden states of one block towards the answer, within a small ball."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget
from expunge.attack.hidden import answer_rows, batches, frozen, mean_logprobs, rewritten
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError, require_at_least, require_between, require_positive
from expunge.core.distributed import share_of
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.models.anatomy import blocks
from expunge.results.attacked import CannotRun, Leak

_TINY = 1e-30  # a gradient or a state of length 0 has no direction


def latent(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    block: int | None = None,
    radii: Sequence[float] = (0.05, 0.1, 0.2),
    steps: int = 4,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """Probability of each answer that small changes of one block's output at the question reach.

    At every position before the answer a vector is added to the block's output. It goes up the gradient of the answer's
    log-probability, in steps of equal length, and never becomes longer than a share of the output's own length there.
    The value of a fact is the geometric mean of its answer's token probabilities, the best that was met on the way to
    the largest radius; the curve has the mean value at each radius, and at 0 without any change. Enough change gives
    any answer, known or not, so that only the difference from the control counts.

    Args:
        model: only read.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        block: decoder block whose output is changed, from 0; None: the middle one.
        radii: longest changes, as shares of the output's length at each position; ascending, above 0.
        steps: gradient steps for each radius.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: a block that the model lacks, radii that do not ascend, or no steps.
        CannotRun: the forget set asks nothing.

    Source: perturbed activations as an audit of unlearning, arXiv:2505.23270; the search by gradient ascent within a
    ball is ours.
    """
    depth = len(blocks(model))
    block = depth // 2 if block is None else block
    require_between("block", block, 0, depth - 1)
    require_at_least("steps", steps, 1)
    for radius in radii:
        require_positive("radii", radius)
    if not radii or list(radii) != sorted(set(radii)):
        raise ExpungeError(f"radii must be one or more ascending numbers; got {list(radii)}.")
    asked = {i: fact for i, fact in enumerate(corpus["forget"]) if fact.kind != "text"}
    if not asked:
        raise CannotRun("it changes what a model makes of a question, and the forget set has plain texts alone")
    rows = answer_rows(model, tokenizer, [*asked.values()], template=template, max_length=max_length)
    share = share_of(model)
    parts = share.mine(batches(rows))
    reached = torch.zeros(len(radii) + 1, len(rows), dtype=torch.float64)
    with frozen(model):
        for done, numbers in enumerate(parts, start=1):
            reached[:, numbers] = ascended(model, [rows[i] for i in numbers], block=block, radii=radii, steps=steps)
            if progress:
                progress("latent perturbation", done, len(parts), "")
    probabilities = share.summed(reached).exp()
    return [
        Leak(
            name="latent",
            measure="geometric mean probability",
            facts=tuple(asked),
            values=tuple(probabilities[-1].tolist()),
            curve=tuple(zip((0.0, *radii), probabilities.mean(1).tolist(), strict=True)),
            about={"block": block, "steps": steps},
            needs_control=True,
        )
    ]


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """Every fact once as it is and once at each radius, and a gradient in each step."""
    facts, radii = sum(fact.kind != "text" for fact in corpus["forget"]), len(settings["radii"])
    steps = radii * settings["steps"]
    return Budget(forms=("latent",), scored=(1 + radii) * facts, steps=steps, backward=steps * facts)


def ascended(
    model: PreTrainedModel, rows: Sequence[Encoded], *, block: int, radii: Sequence[float], steps: int
) -> Float[Tensor, "r b"]:
    """Largest mean log-probability of each answer without any change, and up to each radius; R = radii + 1.

    Args:
        model: a model whose parameters have no gradients.
        rows: the rows of one batch.
        block: whose output is changed.
        radii: ascending.
        steps: gradient steps for each radius; each is 2 / steps of the radius long.
    """
    kept: list[Tensor] = []

    def keep(states: Tensor) -> Tensor:
        kept.append(states)
        return states

    with torch.no_grad(), rewritten(blocks(model)[block], keep):
        found = [mean_logprobs(model, rows)]
    states = kept[-1]  # of the batch; a model's first pass tries some tokens of its own
    starts = torch.tensor([row.start for row in rows], device=states.device)
    asked = torch.arange(states.shape[1], device=states.device) < starts[:, None]
    lengths = torch.linalg.vector_norm(states.float(), dim=-1, keepdim=True) * asked.unsqueeze(-1)
    change = torch.zeros_like(states, dtype=torch.float32)

    def reached(change: Tensor) -> Tensor:
        with rewritten(blocks(model)[block], lambda states: states + change.to(states.dtype)):
            return mean_logprobs(model, rows)

    for radius in radii:
        best = found[-1]
        for _ in range(steps):
            with torch.enable_grad():
                now = reached(change.requires_grad_())
                (slope,) = torch.autograd.grad(now.sum(), change)
            best = torch.maximum(best, now.detach())
            change = within(change.detach() + 2 / steps * radius * lengths * direction(slope), radius * lengths)
        with torch.no_grad():
            found.append(torch.maximum(best, reached(change)))
    return torch.stack(found).double().cpu()


def direction(vectors: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
    """The vector of length 1 in the direction of each; 0 stays 0."""
    return vectors.div(_lengths(vectors))


def within(vectors: Float[Tensor, "b t d"], lengths: Float[Tensor, "b t 1"]) -> Float[Tensor, "b t d"]:
    """Each vector, cut to its longest length."""
    return vectors.mul((lengths / _lengths(vectors)).clamp_max(1))


def _lengths(vectors: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return found.clamp_min(_TINY)
