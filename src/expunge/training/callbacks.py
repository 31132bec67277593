"""What happens around the steps of a run: progress, checkpoints at epochs, interruption, a word of warning."""

import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.core.distributed import ranks
from expunge.core.progress import Progress, first_process


class ReportProgress(TrainerCallback):
    """Tells the progress of a run."""

    def __init__(self, what: str, progress: Progress) -> None:
        self.what, self.progress = what, progress

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Tell the step and its losses."""
        if "loss" not in (logs or {}):
            return  # the trainer's closing summary, not a step
        shown = {k: v for k, v in (logs or {}).items() if k in ("forget_loss", "retain_loss")}
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in shown.items())
        self.progress(self.what, state.global_step, state.max_steps, text)


class CheckpointAtEpochs(TrainerCallback):
    """Saves whenever a multiple of `every` epochs is reached."""

    def __init__(self, *, rows_per_epoch: int, batch_size: int, every: float) -> None:
        self.rows_per_epoch, self.batch_size, self.every = rows_per_epoch, batch_size, every

    def _passed(self, step: int) -> int:
        return math.floor(step * self.batch_size / (self.rows_per_epoch * self.every) + 1e-9)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint where a multiple was passed; the last step needs none.

        Nor does one at which a rule ends the run: from a checkpoint there, a killed run would go on.
        """
        reached = self.every > 0 and self._passed(state.global_step) > self._passed(state.global_step - 1)
        if reached and state.global_step < state.max_steps and not control.should_training_stop:
            control.should_save = True


class StopWhenAsked(TrainerCallback):
    """On the first Ctrl-C: finish the step, save a checkpoint, stop. On the second: stop at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM meanwhile; only the main thread may, elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            if first_process():
                print(
                    "\nstopping after this step and saving a checkpoint; press Ctrl-C again to stop at once",
                    file=sys.stderr,
                )

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint and the end of training once a signal came, to whichever process."""
        # Signals come between two steps for one process and after them for another; all must end at the same step.
        if ranks().summed(torch.tensor(int(self.asked))):
            self.asked = True
            control.should_save = True
            control.should_training_stop = True


class WarnOfCollapse(TrainerCallback):
    """Says once when forgetting has run away and takes the retain set with it."""

    window = 5
    known = 0.05
    """Probability of the retain set below which the model did not know it to begin with."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.said = False
        self.recent: list[float] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Compare the retain set's probability with that of the first step."""
        row = logs or {}
        if self.said or "forget_probability" not in row or "retain_probability" not in row:
            return
        self.first = row["retain_probability"] if self.first is None else self.first
        self.recent = [*self.recent[-self.window + 1 :], row["retain_probability"]]
        now = sum(self.recent) / len(self.recent)
        fallen = self.first > self.known and now < 0.25 * self.first
        if len(self.recent) == self.window and fallen and row["forget_probability"] < 0.01:
            self.said = True
            warnings.warn(
                f"step {state.global_step} of {state.max_steps}: the forget set's token probability is "
                f"{row['forget_probability']:.2g}, and the retain set's has fallen from {self.first:.2f} to {now:.2f}. "
                "The model is collapsing rather than forgetting. Try a lower learning_rate, fewer epochs, "
                "a larger alpha, or a bounded method such as npo.",
                stacklevel=2,
            )


class Clock(TrainerCallback):
    """Measures the time that steps take, checkpoints and set-up left out."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds = 0.0
        self.steps = 0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add the time of this step."""
        self.seconds += time.perf_counter() - self.started
        self.steps += 1
