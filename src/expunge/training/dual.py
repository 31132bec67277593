"""Primal-dual training: the retain loss as a constraint, its weight as a multiplier that moves."""

import math
from typing import TYPE_CHECKING

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.objectives.combine import Dual

if TYPE_CHECKING:
    from expunge.training.trainer import ObjectiveTrainer


def raised(multiplier: float, retain_loss: float, *, eps: float, step: float) -> float:
    """The multiplier after one step of dual ascent: max(0, multiplier + step * (retain_loss - eps)).

    Args:
        multiplier: weight of the retain loss, 0 or above.
        retain_loss: the step's retain loss, in nats a token.
        eps: what the retain loss may be.
        step: how fast the multiplier moves.
    """
    return max(0.0, multiplier + step * (retain_loss - eps))


class DualAscent(TrainerCallback):
    """Moves the multiplier once an optimizer step, from the retain loss over all micro-batches and ranks.

    The multiplier stands in every history row, from which a resumed run takes it up again.
    """

    def __init__(self, trainer: "ObjectiveTrainer", dual: Dual, *, warmup_steps: int) -> None:
        self.trainer, self.dual, self.warmup_steps = trainer, dual, warmup_steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Take up the multiplier of a run that is resumed."""
        known = [row["multiplier"] for row in state.log_history if "multiplier" in row]
        if known:
            self.trainer.weigh_retain(known[-1])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Move the multiplier, and note it."""
        multiplier = self.trainer.objective.alpha
        if state.global_step + 1 > self.warmup_steps:  # the step just taken is not yet counted
            assert self.dual.eps is not None
            multiplier = raised(multiplier, self.trainer.retain_loss(), eps=self.dual.eps, step=self.dual.step)
            if not math.isfinite(multiplier):
                raise AssertionError("the retain loss was finite, and its multiplier is not")
            self.trainer.weigh_retain(multiplier)
        self.trainer.numbers["multiplier"] = multiplier
