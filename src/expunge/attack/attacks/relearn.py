"""Relearning: train a little and see whether what was not shown comes back too."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.budget import Budget, asked
from expunge.attack.measuring import Asker, restored
from expunge.config.signature import shows_settings
from expunge.core.checks import require_between, unknown
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.results.attacked import Leak
from expunge.training.finetune import finetune
from expunge.training.training_config import TrainingConfig

ON = ("forget", "retain")


def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    on: Sequence[str] | None = None,
    shown: float = 0.5,
    learning_rate: float = 2e-5,
    epochs: float = 1.0,
    batch_size: int = 8,
    seed: int = 0,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> list[Leak]:
    """What the model gives of facts that it was not shown, after a little training on others.

    Args:
        model: a causal language model without adapters; put back afterwards.
        tokenizer: its tokenizer.
        corpus: holds `forget`, and `retain` where that is trained on.
        on: what is trained on: `forget` (a share of the forget rows, measured on the others), `retain` (as many retain
            rows, measured on all forget rows); None: both, where the corpus has them.
        shown: share of the forget rows that are shown, by a fixed draw.
        learning_rate: of AdamW, constant.
        epochs: passes over what is shown.
        batch_size: rows of a step.
        seed: of draw and order.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: an unknown set, or a share outside [0, 1].

    Source: arXiv:2506.12618; relearning some facts and measuring others, arXiv:2410.08827. Departures: the paper shows
    all forget rows and measures the same, which any model learns.
    """
    found = []
    for name, rows, measured in _split(corpus, on, shown, seed):
        with restored(model):
            relearned(
                model,
                tokenizer,
                rows,
                learning_rate=learning_rate,
                epochs=epochs,
                batch_size=min(batch_size, len(rows)),
                seed=seed,
                template=template,
                max_length=max_length,
                progress=under(progress, f"relearn on {name}"),
            )
            asker = Asker(tokenizer, template, max_length, progress=under(progress, f"relearned on {name}"))
            found.append(asker.known(model, f"relearn.{name}", measured))
    return found


def _split(
    corpus: Corpus, on: Sequence[str] | None, shown: float, seed: int
) -> Iterator[tuple[str, list[Example], dict[int, Example]]]:
    """Each set with the rows that are trained on, and the facts that are measured."""
    require_between("shown", shown, 0, 1)
    on = [name for name in ON if name in corpus] if on is None else on
    for name in on:
        if name not in ON:
            raise unknown("set to relearn", name, ON)
    facts = corpus["forget"]
    drawn = set(random.Random(seed).sample(range(len(facts)), round(shown * len(facts))))
    for name in on:
        rows = [facts[i] for i in sorted(drawn)] if name == "forget" else [*corpus["retain"][: len(drawn)]]
        yield name, rows, {i: fact for i, fact in enumerate(facts) if name == "retain" or i not in drawn}


def budget(corpus: Corpus, settings: Mapping[str, Any]) -> Budget:
    """Training on each set, and a question for every fact that is measured."""
    found = Budget(forms=())
    for name, rows, measured in _split(corpus, settings["on"], settings["shown"], settings["seed"]):
        a_step = max(1, min(settings["batch_size"], len(rows)))
        steps = math.ceil(round(settings["epochs"] * len(rows)) / a_step)
        found += replace(asked([f"relearn.{name}"], len(measured)), steps=steps)
    return found


@shows_settings(TrainingConfig)
def relearned(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    *,
    learning_rate: float = 2e-5,
    epochs: float = 1.0,
    weight_decay: float = 0.0,
    warmup: float = 0.0,
    schedule: Literal["linear", "constant", "cosine"] = "constant",
    checkpoint_every: float = 0.0,
    output_dir: str | Path | None = None,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
    **settings: Any,
) -> PreTrainedModel:
    """Train all parameters on rows at a constant rate, in place.

    The same seed gives the same order, so that an unlearned model and a retain model relearn alike.

    Args:
        model: trained in place.
        tokenizer: its tokenizer.
        rows: what is shown.
        learning_rate: peak learning rate of AdamW.
        epochs: passes over the rows.
        weight_decay: decoupled weight decay of AdamW.
        warmup: epochs over which the learning rate rises linearly from 0.
        schedule: what the learning rate does after the warm-up.
        checkpoint_every: epochs between checkpoints; 0 writes none.
        output_dir: run folder; None keeps the result in memory.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, steps done, steps in all, numbers).
        **settings: further fields of `TrainingConfig`.

    Returns:
        The model after relearning.

    Raises:
        ExpungeError: unknown settings, a folder in use, a non-finite loss.

    Source: arXiv:2506.12618. Departures: the paper does not say how its rate runs; ours is constant.
    """
    run = finetune(
        model,
        tokenizer,
        Corpus({"shown": tuple(rows)}, "relearned"),
        splits=("shown",),
        output_dir=output_dir,
        template=template,
        max_length=max_length,
        progress=progress,
        learning_rate=learning_rate,
        epochs=epochs,
        weight_decay=weight_decay,
        warmup=warmup,
        schedule=schedule,
        checkpoint_every=checkpoint_every,
        **settings,
    )
    return run.model


def resistance(unlearned: tuple[float, float], retain: tuple[float, float]) -> float:
    """R in [0, 1]: how little faster the unlearned model relearns than one that never knew.

    `clip((retain after - before) / (unlearned after - before), 0, 1)`, and 1 where the unlearned model gains nothing.
    Near 1 the knowledge is gone as in the retain model, near 0 it was hidden.

    Args:
        unlearned: a knowledge metric (higher = knows more) before and after relearning.
        retain: the same of the retain model.

    Source: arXiv:2506.12618.
    """
    gain, gain_retain = unlearned[1] - unlearned[0], retain[1] - retain[0]
    return 1.0 if gain <= 0 else min(max(gain_retain / gain, 0.0), 1.0)
