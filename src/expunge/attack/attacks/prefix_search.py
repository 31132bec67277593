"""Prefix search: look for a text in front of the questions that makes the true answers more probable."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget
from expunge.attack.measuring import Asker
from expunge.core.batch import Encoded, collate
from expunge.core.checks import require_at_least
from expunge.core.distributed import from_main, share_of
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.scoring import Work, teacher_forced
from expunge.models.anatomy import causal_lm, evaluating
from expunge.models.observe import observe
from expunge.results.attacked import CannotRun, Leak

Ids = tuple[int, ...]
TOP = 64
"""Swaps a position that the gradient proposes, of which candidates are drawn."""
TRIES = 50
"""Tokens tried for each place of the first prefix."""


def prefix_search(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    length: int = 8,
    swaps: int = 20,
    candidates: int = 16,
    shown: int = 8,
    seed: int = 0,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """What the model gives of facts behind one prefix that was sought on others of them.

    One token of the prefix is swapped at a time. The gradient of the objective, the mean log-probability of a token of
    the true answers, proposes swaps; some of them are drawn and computed exactly, and the best is kept if it is better
    than the prefix so far. The prefix is text that a user could type: tokens that do not come back when their text is
    tokenized are not used. Such a prefix draws out things that were never known, too, so that only the comparison with
    a control says anything; the search is run on the control as well.

    Args:
        model: only read.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        length: tokens of the prefix.
        swaps: steps of the search.
        candidates: swaps computed exactly in each step.
        shown: facts that the prefix is sought on, by a fixed draw, at most half of them; the others are measured.
        seed: of the draws.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: a number below 1.
        CannotRun: fewer than two facts ask something, or the tokenizer gives no text of this length.

    Source: greedy coordinate gradient, arXiv:2307.15043; why a control, arXiv:2502.15836. Departures: true answers of
    several facts stand in place of an affirmative beginning, a swap is kept only if it helps, and facts are measured
    that the search did not see.
    """
    for name, value in (("length", length), ("swaps", swaps), ("candidates", candidates), ("shown", shown)):
        require_at_least(name, value, 1)
    sought, measured = _split(corpus, shown, seed)
    rows = Rows(model, tokenizer, tuple(sought.values()), template, max_length)
    draw = random.Random(seed)
    with evaluating(model):
        prefix = first_prefix(rows, length, draw)
        trace = search(rows, prefix, swaps=swaps, candidates=candidates, draw=draw, progress=progress)
    text = rows.text(trace[-1][0])
    asked = {i: fact.asking(fact.completion, prompt=f"{text} {fact.question}") for i, fact in measured.items()}
    asker = Asker(tokenizer, template, max_length, progress=under(progress, "prefix_search"))
    (leak,) = asker.leaks(model, {"prefix_search": asked})
    about = {"prefix": text, "sought on": [*sought], "objective": [value for _, value in trace]}
    return [replace(leak, about=about, needs_control=True)]


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """A gradient and some candidates a swap on the facts shown, then a question for each of the others."""
    sought, measured = _split(corpus, settings["shown"], settings["seed"])
    computed = 1 + settings["swaps"] * settings["candidates"]
    return Budget(
        forms=("prefix_search",),
        scored=computed * len(sought) + len(measured),
        generated=len(measured),
        steps=settings["swaps"],
        backward=settings["swaps"] * len(sought),
    )


def _split(corpus: Corpus, shown: int, seed: int) -> tuple[dict[int, Example], dict[int, Example]]:
    """The facts that the prefix is sought on, and the others, by their positions."""
    asking = {i: fact for i, fact in enumerate(corpus["forget"]) if fact.kind != "text"}
    if len(asking) < 2:
        raise CannotRun("it needs two facts that ask something: one to seek the prefix on, and one to measure")
    drawn = set(random.Random(seed).sample(sorted(asking), min(shown, len(asking) // 2)))
    return {i: asking[i] for i in sorted(drawn)}, {i: fact for i, fact in asking.items() if i not in drawn}


@dataclass(frozen=True)
class Rows:
    """Facts behind a prefix, and how probable a model finds their answers."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: Sequence[Example]
    template: Template | None = None
    max_length: int = 512

    @cached_property
    def usable(self) -> list[int]:
        """Tokens that may stand in a prefix: those that the tokenizer makes of text, none of them special."""
        known = min(len(self.tokenizer), self.embedding.num_embeddings)
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return [token for token in range(known) if token not in special]

    @property
    def embedding(self) -> nn.Embedding:
        """The input embedding."""
        found = causal_lm(self.model).get_input_embeddings()  # type: ignore[operator]
        assert isinstance(found, nn.Embedding)
        return found

    def text(self, prefix: Ids) -> str:
        """What a user would type."""
        return str(self.tokenizer.decode(list(prefix), clean_up_tokenization_spaces=False))

    def behind(self, prefix: Ids) -> list[tuple[Encoded, int]] | None:
        """Each fact's row behind the prefix and where the prefix begins; None where its text gives other tokens."""
        text = self.text(prefix)
        if not text.isprintable() or "\ufffd" in text:
            return None
        asked = [fact.asking(fact.completion, prompt=f"{text} {fact.question}") for fact in self.facts]
        rows = encode(asked, self.tokenizer, template=self.template, max_length=self.max_length)
        places = [_place(row.prompt_ids, prefix) for row in rows]
        return None if None in places else [(row, at) for row, at in zip(rows, places, strict=True) if at is not None]

    def objectives(self, prefixes: Sequence[Ids]) -> list[float | None]:
        """By prefix, the mean over facts of the mean log p of an answer token; None where its text reads otherwise."""
        behind = [self.behind(prefix) for prefix in prefixes]
        work = Work(share=share_of(self.model))
        scores = iter(teacher_forced(self.model, [row for rows in behind for row, _ in rows or ()], work=work))
        return [
            None if rows is None else float(np.mean([next(scores).logprobs.mean(dtype=np.float64) for _ in rows]))
            for rows in behind
        ]

    def slopes(self, prefix: Ids) -> Float[Tensor, "length vocabulary"]:
        """How the objective grows, to first order, with each token in each place of the prefix."""
        behind = self.behind(prefix)
        assert behind is not None
        held: list[tuple[Tensor, Tensor]] = []

        def keep(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            held.append((given[0], output.detach().requires_grad_()))
            return held[-1][1]

        handle = self.embedding.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                seen = observe(self.model, {"shown": collate([row for row, _ in behind])}, {"shown": _SCORED})["shown"]
        finally:
            handle.remove()
        assert seen.logprobs is not None
        objective = (seen.logprobs / seen.counts).mean()
        # The rows may come in several passes; a pass that only tries the model out is part of no objective.
        gradients = torch.autograd.grad(objective, [embedded for _, embedded in held], allow_unused=True)
        of_places = [
            gradient[row, at : at + len(prefix)]
            for (ids, _), gradient in zip(held, gradients, strict=True)
            if gradient is not None
            for row, at in enumerate(_place(tuple(one), prefix) for one in ids.tolist())
            if at is not None
        ]
        assert len(of_places) == len(behind)
        # A factor that some models put on their embeddings is left out: it changes no order.
        return torch.stack(of_places).sum(0).float() @ self.embedding.weight.detach().float().T


_SCORED = frozenset({"logprobs"})


def _place(ids: Ids, prefix: Ids) -> int | None:
    """Where a prefix begins in a row; None where it does not stand there."""
    return next((at for at in range(len(ids) - len(prefix) + 1) if ids[at : at + len(prefix)] == prefix), None)


def first_prefix(rows: Rows, length: int, draw: random.Random) -> Ids:
    """Tokens drawn one after the other such that their text gives them again."""
    prefix: Ids = ()
    while len(prefix) < length:
        tried = ((*prefix, token) for token in draw.choices(rows.usable, k=TRIES))
        found = next((one for one in tried if rows.behind(one) is not None), None)
        if found is None:
            raise CannotRun(f"no text of {length} tokens was found that this tokenizer reads as the same tokens")
        prefix = found
    return prefix


def search(
    rows: Rows,
    prefix: Ids,
    *,
    swaps: int,
    candidates: int,
    draw: random.Random,
    progress: Progress | None = None,
) -> list[tuple[Ids, float]]:
    """The prefix and its objective at the beginning and after each swap; the objective never falls."""
    (best,) = rows.objectives([prefix])
    assert best is not None
    trace = [(prefix, best)]
    allowed = torch.tensor(rows.usable)
    for swap in range(swaps):
        proposed = _proposed(rows, prefix, allowed)
        drawn = dict.fromkeys(_swapped(prefix, proposed, draw) for _ in range(candidates))
        drawn.pop(prefix, None)
        for candidate, value in zip(drawn, rows.objectives([*drawn]), strict=True):
            if value is not None and value > best:
                prefix, best = candidate, value
        trace.append((prefix, best))
        if progress:
            progress("prefix_search: swaps", swap + 1, swaps, f"log p {best:.3f}")
    return trace


def _proposed(rows: Rows, prefix: Ids, allowed: Tensor) -> list[list[int]]:
    """For each place, the tokens that promise most; of one rank for all, since a GPU may round otherwise each time."""

    def best() -> list[list[int]]:
        slopes = rows.slopes(prefix).cpu()[:, allowed]
        found: list[list[int]] = allowed[slopes.topk(min(TOP, len(allowed)), dim=1).indices].tolist()
        return found

    return from_main(best)


def _swapped(prefix: Ids, proposed: Sequence[Sequence[int]], draw: random.Random) -> Ids:
    """The prefix with one token replaced by one that is proposed for its place."""
    place = draw.randrange(len(prefix))
    return (*prefix[:place], draw.choice(proposed[place]), *prefix[place + 1 :])
