"""Relearning: train a finished model on the forget set again and see how fast the knowledge returns."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.training.finetune import finetune

LEARNING_RATE = 2e-5


def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
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
        output_dir: run folder; None keeps the result in memory.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, steps done, steps in all, numbers).
        **settings: fields of `TrainingConfig` over the defaults: learning rate 2e-5, no weight decay, no warm-up.

    Returns:
        The model after relearning.

    Raises:
        ExpungeError: unknown settings, a folder in use, a non-finite loss.

    Source: arXiv:2506.12618. Departures: the paper does not say how its rate runs; ours is constant.
    """
    defaults: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "epochs": 1.0,
        "weight_decay": 0.0,
        "warmup": 0.0,
        "schedule": "constant",
        "checkpoint_every": 0.0,
    }
    run = finetune(
        model,
        tokenizer,
        corpus,
        splits=("forget",),
        output_dir=output_dir,
        template=template,
        max_length=max_length,
        progress=progress,
        **{**defaults, **settings},
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
