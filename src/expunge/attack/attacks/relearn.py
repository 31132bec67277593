"""Relearning: train a little and see whether what was not shown comes back too."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget
from expunge.attack.measuring import Asker, restored
from expunge.attack.same_form import same_form
from expunge.config.field_types import check_types
from expunge.config.signature import shows_settings
from expunge.core.checks import require_at_least, require_between, unknown
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.models.anatomy import causal_lm, size_of
from expunge.results.attacked import CannotRun, Leak
from expunge.training.adapter import LEARNING_RATE as ADAPTER_RATE
from expunge.training.training_config import TrainingConfig, rate_for
from expunge.training.unlearn import unlearn

ON = {"forget": "forget rows", "retain": "retain rows", "form": "text of the same form"}
"""Sets that are trained on, and what to call them."""
RATE = 2e-5
"""Published, for all weights of models of 1 billion parameters and more."""


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """How much an attack trains, the same for model and control."""

    steps: int = 10
    """Optimizer steps, 1 or more."""
    batch_size: int = 8
    """Rows of a step, at most those that are trained on."""
    learning_rate: float | None = None
    """Of AdamW, constant; null: 2e-5, with an adapter 1e-4, times 1e9 / parameters for models below 1 billion
    parameters, at most times 30."""
    adapter: str | None = None
    """`lora`: train low-rank factors of all linear layers, rank 8; null: all weights."""
    points: int = 4
    """Values of the curve over the steps, 2 or more: the first before training, the last at its end."""
    seed: int = 0
    """Random seed of all that is drawn, and of the order of rows."""

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least("steps", self.steps, 1)
        require_at_least("batch_size", self.batch_size, 1)
        require_at_least("points", self.points, 2, hint="A curve has a start and an end.")
        if self.adapter not in (None, "lora"):
            raise unknown("adapter of relearning", self.adapter, ("lora",))

    @property
    def looks(self) -> tuple[int, ...]:
        """The steps after which the curve has a point, ascending, from 0 to the last."""
        return tuple(sorted({round(k * self.steps / (self.points - 1)) for k in range(self.points)}))


@shows_settings(Relearning)
def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    on: Sequence[str] | None = None,
    shown: float = 0.5,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
    **training: Any,
) -> list[Leak]:
    """What the model gives of facts that it was not shown, after a little training on something else.

    Budget: for each set that is trained on, `steps` steps of at most `batch_size` rows, and one pass over the measured
    facts for each point of the curve; at the last point the model also answers.

    A fact leaks where, at any point of the curve after the start, it comes back above the control at that same point.
    The values and their mean are those of the last point.

    Args:
        model: a causal language model without adapters; put back afterwards.
        tokenizer: its tokenizer.
        corpus: holds `forget`, and `retain` where that is trained on.
        on: what is trained on: `forget` (a share of the forget rows, measured on the others), `retain` (as many retain
            rows, measured on all forget rows), `form` (the same share of the forget rows with invented words and
            numbers in place of theirs, measured on all forget rows); null: all that the corpus has.
        shown: share of the forget rows that are shown, by a fixed draw; at least one is shown and one is not.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).
        **training: fields of `Relearning`.

    Raises:
        ExpungeError: an unknown set or adapter, or a number out of range.
        CannotRun: a forget set of one fact.

    Source: arXiv:2506.12618 (rate); relearning some facts and measuring others, arXiv:2410.08827; text of the same
    form, arXiv:2602.03379. Departures: the first shows all forget rows once and measures the same, which any model
    learns; here the number of steps does not depend on the size of the set.
    """
    require_between("shown", shown, 0, 1)
    how = Relearning(**training)
    drawn, measured = _split(corpus, on, shown, how.seed)
    sets: dict[str, Callable[[], Sequence[Example]]] = {
        "forget": lambda: [*drawn.values()],
        "retain": lambda: corpus["retain"][: len(drawn)],
        "form": lambda: same_form([*drawn.values()], corpus["forget"], how.seed),
    }
    found = []
    for name, facts in measured.items():
        asker = Asker(tokenizer, template, max_length, progress=under(progress, f"relearn on {ON[name]}"))
        found.append(brought_back(model, asker, f"relearn.{name}", sets[name](), facts, how))
    return found


def _split(
    corpus: Corpus, on: Sequence[str] | None, shown: float, seed: int
) -> tuple[dict[int, Example], dict[str, dict[int, Example]]]:
    """The facts that are shown, and by set that is trained on, those that are measured."""
    on = [name for name in ON if name in corpus or name == "form"] if on is None else on
    for name in on:
        if name not in ON:
            raise unknown("set to relearn", name, ON)
    facts = dict(enumerate(corpus["forget"]))
    if len(facts) < 2:
        raise CannotRun("it shows some facts and measures others, and the forget set has one fact")
    drawn = some(facts, shown, random.Random(seed))
    others = {i: fact for i, fact in facts.items() if i not in drawn}
    return drawn, {name: others if name == "forget" else facts for name in on}


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """Training on each set, and the facts that are measured at each point of its curve."""
    drawn, measured = _split(corpus, settings["on"], settings["shown"], settings["seed"])
    found = Budget(forms=())
    for name, facts in measured.items():
        found += trained(f"relearn.{name}", len(drawn), len(facts), settings)
    return found


def trained(name: str, shown: int, measured: int, settings: Mapping[str, Any]) -> Budget:
    """What one training on at most so many rows computes, with the facts measured along the way and at its end."""
    how = Relearning(**{field.name: settings[field.name] for field in fields(Relearning)})
    return Budget(
        forms=(name,),
        scored=len(how.looks) * measured,
        generated=measured,
        steps=how.steps,
        backward=how.steps * min(how.batch_size, shown),
    )


def some(facts: Mapping[int, Example], share: float, draw: random.Random) -> dict[int, Example]:
    """A share of two facts or more, at least one of them and never all."""
    count = min(max(round(share * len(facts)), 1), len(facts) - 1)
    return {i: facts[i] for i in sorted(draw.sample(sorted(facts), count))}


def brought_back(
    model: PreTrainedModel,
    asker: Asker,
    name: str,
    rows: Sequence[Example],
    measured: Mapping[int, Example],
    how: Relearning,
) -> Leak:
    """Train on rows and measure facts, along the way without letting the model answer; it is put back afterwards.

    Args:
        model: put back bit for bit.
        asker: asks for the facts.
        name: of the leak.
        rows: what is trained on.
        measured: by number, the facts that are measured.
        how: how much is trained.
    """
    scorer = replace(asker, generate=False)
    batch_size = min(how.batch_size, len(rows))
    rate = default_rate(model, how.adapter) if how.learning_rate is None else how.learning_rate
    with restored(model):
        points = {0: scorer.known(model, name, measured).values}

        def look(now: nn.Module, step: int) -> None:
            if step in how.looks[:-1]:
                points[step] = scorer.known(causal_lm(now), name, measured).values

        relearned(
            model,
            asker.tokenizer,
            rows,
            learning_rate=rate,
            epochs=how.steps * batch_size / len(rows),
            batch_size=batch_size,
            adapter=how.adapter,
            seed=how.seed,
            template=asker.template,
            max_length=asker.max_length,
            after_step=look,
            progress=asker.progress,
        )
        leak = asker.known(model, name, measured)
    points[how.steps] = leak.values
    return replace(
        leak,
        curve=tuple((float(step), fmean(values)) for step, values in points.items()),
        by_point=tuple(points.values()),
        about={"rows": len(rows), "batch_size": batch_size, "learning_rate": rate, "adapter": how.adapter},
    )


@shows_settings(TrainingConfig)
def relearned(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    *,
    learning_rate: float | None = None,
    epochs: float = 1.0,
    weight_decay: float = 0.0,
    warmup: float = 0.0,
    schedule: Literal["linear", "constant", "cosine"] = "constant",
    adapter: str | None = None,
    template: Template | None = None,
    max_length: int = 512,
    after_step: Callable[[nn.Module, int], None] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> PreTrainedModel:
    """Train on rows at a constant rate, in place: all parameters, or an adapter that is merged at the end.

    The same seed gives the same order, so that an unlearned model and a retain model relearn alike.

    Args:
        model: trained in place.
        tokenizer: its tokenizer.
        rows: what is shown.
        learning_rate: peak learning rate of AdamW; null: 2e-5, with an adapter 1e-4, times 1e9 / parameters for models
            below 1 billion parameters, at most times 30.
        epochs: passes over the rows.
        weight_decay: decoupled weight decay of AdamW.
        warmup: epochs over which the learning rate rises linearly from 0.
        schedule: what the learning rate does after the warm-up.
        adapter: name of an adapter; null: all parameters.
        template: how questions are framed.
        max_length: longest row in tokens.
        after_step: called with (model in training, steps done) after each step; it must only read.
        progress: called with (what, steps done, steps in all, numbers).
        **settings: further fields of `TrainingConfig`.

    Returns:
        The model after relearning.

    Raises:
        ExpungeError: unknown settings, or a non-finite loss.

    Source: arXiv:2506.12618. Departures: the paper does not say how its rate runs; ours is constant.
    """
    model.requires_grad_(True)  # whoever attacks trains what was frozen before, too
    run = unlearn(
        model,
        tokenizer,
        Corpus({"forget": tuple(rows)}, "relearned"),
        method="learn",
        adapter=adapter,
        stop=after_step,  # a rule that never gives a reason is asked, and training goes on
        stop_every=1 / len(rows),  # of an epoch: after every step, however many rows it has
        template=template,
        max_length=max_length,
        progress=_of_training(progress),
        learning_rate=default_rate(model, adapter) if learning_rate is None else learning_rate,
        epochs=epochs,
        weight_decay=weight_decay,
        warmup=warmup,
        schedule=schedule,
        **settings,
    )
    return run.model  # type: ignore[return-value]


def _of_training(progress: Progress | None) -> Progress | None:
    """Progress of a training whose rows go as a forget set, and need not be one."""
    if progress is None:
        return None
    return lambda _, done, total, numbers: progress("training", done, total, numbers.removeprefix("forget "))


def default_rate(model: nn.Module, adapter: str | None) -> float:
    """The published learning rate for a model of this size."""
    return rate_for(ADAPTER_RATE if adapter else RATE, size_of(model))
