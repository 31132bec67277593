"""What attacks share: a model that is put back afterwards, and how much of each answer it gives."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.evaluation.collect import collect
from expunge.evaluation.metrics.extraction_strength import strength
from expunge.evaluation.probe import Probe
from expunge.models.anatomy import evaluating
from expunge.results.attacked import Leak

STRENGTH = "extraction strength"
NEW_TOKENS = 64


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put a model back bit for bit afterwards: weights, buffers, gradients, modes and what is trained."""
    kept = {name: tensor.detach().clone() for name, tensor in _distinct(model)}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        with evaluating(model):
            yield
    finally:
        with torch.no_grad():
            for name, tensor in _distinct(model):
                tensor.copy_(kept[name])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
            parameter.grad = None


def _distinct(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, each once: a tied head is the embedding."""
    yield from model.named_parameters()
    yield from model.named_buffers()


@dataclass(frozen=True)
class Asker:
    """Asks a model questions with known answers, all in one pass over length-sorted rows."""

    tokenizer: PreTrainedTokenizerBase
    template: Template | None = None
    max_length: int = 512
    generate: bool = True
    progress: Progress | None = None

    def leaks(self, model: nn.Module, asked: Mapping[str, Mapping[int, Example]]) -> list[Leak]:
        """How much of each answer follows by itself, and what the model says.

        Args:
            model: only read.
            asked: by name of the leak, the facts with the question and the answer that stand for each.

        Returns:
            One leak a name, in their order; a name without any fact gives an empty one.
        """
        filled = {name: of for name, of in asked.items() if of}
        if not filled:
            return [Leak(name=name, measure=STRENGTH, facts=(), values=()) for name in asked]
        corpus = Corpus({name: tuple(of.values()) for name, of in filled.items()}, "attacks")
        probes = [Probe(split=name, generate=self.generate, max_new_tokens=NEW_TOKENS) for name in filled]
        records = collect(
            model,
            self.tokenizer,
            corpus,
            probes,
            template=self.template,
            max_length=self.max_length,
            progress=self.progress,
        )
        found = []
        for name, of in asked.items():
            if not of:
                found.append(Leak(name=name, measure=STRENGTH, facts=(), values=()))
                continue
            rows = records.where(split=name)
            texts = tuple(rows.column("generation")) if self.generate else ()
            found.append(
                Leak(
                    name=name,
                    measure=STRENGTH,
                    facts=tuple(of),
                    values=tuple(float(strength(hits)) for hits in rows.bodies("hits", "by_rule")),
                    prompts=tuple(example.question for example in of.values()),
                    texts=texts,
                )
            )
        return found

    def known(self, model: nn.Module, name: str, facts: Sequence[Example] | Mapping[int, Example]) -> Leak:
        """How much a model knows of facts, asked as they are."""
        numbered = facts if isinstance(facts, Mapping) else dict(enumerate(facts))
        return self.leaks(model, {name: numbered})[0]
