"""What a request will take, before anything is computed: steps, tokens and memory of each candidate."""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.erase.candidates import Candidate
from expunge.training.memory import Conditions, run_memory, work
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.run import uses_bf16

FORWARD_AND_BACKWARD = 3
"""What a training token costs, in tokens of a forward pass."""


@dataclass(frozen=True)
class Trial:
    """One candidate at its default learning rate."""

    name: str
    rate: float
    steps: int
    tokens: int
    """Of the whole trial, padding not counted."""
    memory: float
    """Bytes, roughly, without what libraries take."""

    def seconds(self, tokens_a_second: float) -> float:
        """How long it may take where a forward pass takes so many tokens a second."""
        return FORWARD_AND_BACKWARD * self.tokens / tokens_a_second


def trials(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    arms: Mapping[str, Candidate],
    *,
    adapter: str | None = None,
    template: Template | None = None,
    max_length: int = 512,
    seed: int = 0,
) -> list[Trial]:
    """The first trial of each candidate.

    Args:
        model: the start model; a skeleton is enough.
        tokenizer: its tokenizer.
        corpus: holds forget and retain set.
        arms: candidates by name.
        adapter: they are trained through it; None: all weights.
        template: how questions are framed.
        max_length: longest row in tokens.
        seed: of the trials.
    """
    found = []
    for name, candidate in arms.items():
        own = candidate.settings_for(len(corpus["forget"]), adapter)
        config, training, more = split_settings({**own, "seed": seed})
        plan = plan_unlearning(
            model, config, training, more, corpus=corpus, template=template, max_length=max_length
        ).dated(tokenizer, None)
        rows = plan.rows(corpus, tokenizer, model)
        size, under = work(rows, plan.training), Conditions(autocast=uses_bf16(model, plan.training, "cpu"))
        memory = run_memory(model, plan, rows, under)
        tokens = round(size.tokens_an_epoch * plan.epochs)
        rate = candidate.times_default * float(plan.training.learning_rate or 0)
        found.append(Trial(name, rate, size.steps, tokens, sum(memory.values())))
    return found
