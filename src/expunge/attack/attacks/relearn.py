"""Relearning: train a finished model on the forget set again and see how fast the knowledge returns."""

from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.config.signature import shows_settings
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.training.finetune import finetune
from expunge.training.training_config import TrainingConfig


@shows_settings(TrainingConfig)
def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
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
    """Train all parameters on the forget set at a constant rate, by default for one epoch of 32 rows a step.

    The same seed gives the same order, so that an unlearned model and a retain model relearn alike.

    Args:
        model: trained in place.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        learning_rate: peak learning rate of AdamW.
        epochs: passes over the forget set.
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
        corpus,
        splits=("forget",),
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
