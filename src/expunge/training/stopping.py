"""Stopping a run by what was measured: any metric against any threshold, asked every so many epochs."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.core.checks import ExpungeError, require_positive, unknown
from expunge.models.anatomy import evaluating

StopRule = Callable[[nn.Module, int], str | None]
"""Told (model in training, steps done); a text ends the run and is its reason, None lets it go on.

What its attribute `about` says, if it has one, stands in the manifest of a run; else its name. So do, in the results,
the measures of the last look where it has them as its attribute `seen`.
"""

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class NoValue(ExpungeError):
    """A measure to stop by has no value, so that it is unknown whether to stop."""


@dataclass(frozen=True)
class Condition:
    """A measure and the value at which it is far enough: `forget_rouge <= 0.1`."""

    measure: str
    comparison: str
    threshold: float

    @classmethod
    def read(cls, text: str, levels: Mapping[str, float] | None = None) -> "Condition":
        """A condition from text.

        Args:
            text: `measure<=number`, or `measure<=name` with a name of `levels`; also with `<`, `>=`, `>`.
            levels: numbers by name, such as what the start model reaches on unseen text.

        Raises:
            ExpungeError: it is no condition, or the name is unknown.
        """
        found = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
        if found is None:
            raise ExpungeError(f"stop={text!r} is not a condition, such as forget_rouge<=0.1.")
        measure, comparison, limit = found.groups()
        try:
            threshold = float(limit)
        except ValueError:
            if limit not in (levels or {}):
                raise unknown("level to stop at", limit, levels or {}) from None
            threshold = (levels or {})[limit]
        if not math.isfinite(threshold):
            raise ExpungeError(f"stop={text!r}: the threshold must be a finite number; it is {threshold}.")
        return cls(measure, comparison, threshold)

    def holds(self, values: Mapping[str, float]) -> bool:
        """Is the measure there?

        Raises:
            NoValue: it is not a number.
        """
        if self.measure not in values:
            raise unknown("measure to stop by", self.measure, values)
        if math.isnan(values[self.measure]):
            raise NoValue(f"{self.measure} has no value, so whether {self} holds is unknown.")
        return bool(_COMPARISONS[self.comparison](values[self.measure], self.threshold))

    def __str__(self) -> str:
        """As it could be read."""
        return f"{self.measure}{self.comparison}{self.threshold:g}"

    def beside(self, value: float) -> str:
        """As `forget_rouge 0.4 (wanted <=0.1)`."""
        return f"{self.measure} {value:.4g} (wanted {self.comparison}{self.threshold:g})"


@dataclass(frozen=True)
class Rule:
    """A rule to stop by, with what a run's manifest says of it."""

    ask: Callable[[nn.Module, int], str | None]
    about: Mapping[str, Any]
    start: str = ""
    """Where the start model stands."""
    met: bool = False
    """Do all conditions hold on the start model already?"""
    doubt: str = ""
    """Why the level of unseen text may be no goal; empty where nothing speaks against it."""
    conditions: Sequence[Condition] = ()
    seen: dict[str, float] = field(default_factory=dict)
    """What was measured at the last look, by measure."""

    def __call__(self, model: nn.Module, step: int) -> str | None:
        """The reason to stop, if there is one."""
        return self.ask(model, step)

    def told(self) -> str:
        """What was measured at the last look, next to what is wanted."""
        return ", ".join(c.beside(self.seen[c.measure]) for c in self.conditions if c.measure in self.seen)


def described(rule: StopRule) -> Any:
    """What a rule says of itself, or its name; of two that are called the same nothing more can be said."""
    name = getattr(rule, "__qualname__", type(rule).__qualname__)
    return getattr(rule, "about", f"{getattr(rule, '__module__', '')}.{name}")


def when_all(
    conditions: Sequence[Condition],
    measure: Callable[[nn.Module, str], float],
    seen: dict[str, float] | None = None,
) -> StopRule:
    """A rule that stops once every condition holds.

    With the extraction likelihood and the memorization accuracy of the forget sequences, each at most what the start
    model has on unseen text, this is the rule of Jang et al. 2022 (arXiv:2210.01504).

    Args:
        conditions: at least one. They are looked at in this order until one does not hold, so put cheap ones first.
        measure: a measure of the model as it is, by its name.
        seen: takes up what was measured at the last look.
    """
    if not conditions:
        raise ExpungeError("a rule to stop by needs at least one condition.")

    def rule(model: nn.Module, step: int) -> str | None:
        values = {} if seen is None else seen
        values.clear()
        for condition in conditions:
            if condition.measure not in values:
                values[condition.measure] = measure(model, condition.measure)
            if not condition.holds(values):
                return None
        return f"step {step}: {', '.join(c.beside(values[c.measure]) for c in conditions)}"

    return rule


class StopWhen(TrainerCallback):
    """Asks a rule every so many epochs, in eval mode, and ends the run once it gives a reason."""

    def __init__(self, rule: StopRule, *, every: float, rows_per_epoch: int, batch_size: int) -> None:
        """Set up the question.

        Args:
            rule: what is asked.
            every: epochs between two questions; a step is the shortest time between them.
            rows_per_epoch: rows of one pass.
            batch_size: rows of one step.
        """
        require_positive("stop_every", every)
        self.rule, self.every, self.rows_per_epoch, self.batch_size = rule, every, rows_per_epoch, batch_size
        self.reason: str | None = None
        self.looked: int | None = None

    def _passed(self, step: int) -> int:
        return math.floor(step * self.batch_size / (self.rows_per_epoch * self.every) + 1e-9)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Ask where a multiple of `every` was passed."""
        step = state.global_step
        if self._passed(step) == self._passed(step - 1):
            return
        self.looked = step
        with evaluating(model):
            self.reason = self.rule(model, step)
        if self.reason is not None:
            control.should_training_stop = True
            control.should_save = False  # from a checkpoint here, a killed run would go on beyond the end

    def results(self) -> dict[str, Any]:
        """For a manifest: why the run stopped, if it did, and what was measured at the last look, and when."""
        seen = getattr(self.rule, "seen", None)
        return {
            **({"stopped": self.reason} if self.reason else {}),
            **({"stop_look": {"step": self.looked, **seen}} if seen and self.looked is not None else {}),
        }
