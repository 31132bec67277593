"""What an attack computes at most, known before it starts."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.core import catalogue
from expunge.core.format import counted
from expunge.data.corpus import Corpus

BACKWARD = 3
"""Forward passes that a forward and a backward pass of the same row cost together."""
ANSWER = 2
"""Forward passes of a row with its answer that writing an answer costs; 1 to 2.5 in the default attacks on the
embedded default."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is computed at most on one model."""

    forms: tuple[str, ...]
    """Names of the leaks that come of it."""
    scored: int = 0
    """Rows shown once with their true answers: forward passes of one row."""
    generated: int = 0
    """Answers that the model writes."""
    steps: int = 0
    """Steps that change something by a gradient: weights, hidden states, or tokens of a prompt."""
    backward: int = 0
    """Rows of these steps, each with a forward and a backward pass."""

    def __add__(self, other: "Budget") -> "Budget":
        """Both together."""
        return Budget(
            forms=(*self.forms, *other.forms),
            scored=self.scored + other.scored,
            generated=self.generated + other.generated,
            steps=self.steps + other.steps,
            backward=self.backward + other.backward,
        )

    @property
    def passes(self) -> int:
        """All of it in forward passes of one row, roughly: what its time is reckoned by."""
        return self.scored + ANSWER * self.generated + BACKWARD * self.backward

    @property
    def text(self) -> str:
        """The counts in words."""
        return (
            f"{counted(self.scored, 'row')} scored, {counted(self.generated, 'answer')} generated, "
            f"{counted(self.steps, 'gradient step')}"
        )


def asked(forms: Collection[str], facts: int) -> Budget:
    """Every form asks as many facts once, and lets the model answer."""
    return Budget(forms=tuple(forms), scored=len(forms) * facts, generated=len(forms) * facts)


def budget_of(function: Callable[..., Any], corpus: Corpus, own: Mapping[str, Any]) -> Budget | None:
    """What `budget(corpus, settings)`, next to the attack in its module, says; None where there is no such function.

    Args:
        function: the attack.
        corpus: what it will be run on.
        own: its settings as far as they were given; the others have their defaults.
    """
    stated = getattr(inspect.getmodule(function), "budget", None)
    found: Budget | None = stated(corpus, {**catalogue.hyperparameters(function), **own}) if callable(stated) else None
    return found
