"""What a request will take, before anything is computed: steps, tokens and memory of each candidate."""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.erase.candidates import Candidate
from expunge.models.speed import least_seconds
from expunge.training.memory import Conditions, run_memory, work
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.run import uses_bf16


@dataclass(frozen=True)
class Trial:
    """One candidate."""

    name: str
    rates: tuple[float, ...]
    """Learning rates, in the order in which they are tried."""
    steps: int
    tokens: int
    """Of the whole trial, padding not counted."""
    memory: float
    """Bytes, roughly."""
    seconds: float
    """Of one trial, at least: what its arithmetic takes here."""


def trials(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    arms: Mapping[str, Candidate],
    *,
    tries: int = 3,
    adapter: str | None = None,
    template: Template | None = None,
    max_length: int = 512,
    seed: int = 0,
) -> list[Trial]:
    """The trials of each candidate.

    Args:
        model: the start model; a skeleton is enough.
        tokenizer: its tokenizer.
        corpus: holds forget and retain set.
        arms: candidates by name.
        tries: learning rates of each.
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
        rates = candidate.rates(float(plan.training.learning_rate or 0), tries)
        seconds = least_seconds(model, tokens, whole=adapter is None, bf16=under.autocast)
        found.append(Trial(name, rates, size.steps, tokens, sum(memory.values()), seconds))
    return found
