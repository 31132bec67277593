"""Ways of unlearning that are tried: those that came nearest to a retain model, first what withstands attacks.

A loss that goes on until a row is far below the start model takes the retain set down with it at first, and the retain
loss brings it back. It needs a high rate and enough steps for both, so that a lower rate is not always the milder one:
rates above and below the first one are tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.checks import require_names, unknown

STEPS = 50
"""Optimizer steps of most candidates."""
LARGEST_BATCH = 32
MULTIPLES = (1.0, 3.0, 1 / 3, 10.0, 0.1)
"""Of a candidate's first rate, in the order in which they are tried."""


@dataclass(frozen=True)
class Candidate:
    """One way of unlearning, but for its learning rate."""

    settings: Mapping[str, Any]
    times_default: float = 1.0
    """Its first learning rate, in default rates of its method."""
    epochs: int = field(default=10, kw_only=True)
    steps: int = field(default=STEPS, kw_only=True)
    """Optimizer steps at least, as far as steps of one row allow."""

    def settings_for(self, rows: int, adapter: str | None) -> dict[str, Any]:
        """Settings of `unlearn` for a forget set of so many rows, through an adapter where one is named."""
        batch = max(1, min(LARGEST_BATCH, rows * self.epochs // self.steps))
        through = {} if adapter is None else {"adapter": adapter}
        return {**self.settings, **through, "epochs": self.epochs, "batch_size": batch, "checkpoint_every": 0}

    def rates(self, default: float, tries: int) -> tuple[float, ...]:
        """Learning rates in the order in which they are tried, from the default rate of the method."""
        return tuple(float(f"{self.times_default * default * times:.2g}") for times in MULTIPLES[:tries])


CANDIDATES: Mapping[str, Candidate] = {
    # A small beta goes on until a row is far below the start model: this withstands relearning.
    "npo_small_beta": Candidate({"method": "npo", "beta": 0.02, "alpha": 3.0, "retain_per_forget": 3}, 3.0),
    # Reaches the retain model's forget set in few steps, and keeps most.
    "wga": Candidate({"method": "wga"}, epochs=5),
    "npo": Candidate({"method": "npo"}),
    # Withstands relearning and answers in sentences, but knows the retain set alone afterwards.
    "undo": Candidate({"method": "undo", "retain_per_forget": 10}, epochs=8, steps=160),
}
USUAL = ("npo_small_beta", "wga", "npo")
"""Those that leave what is in neither set where it was. Trials measure the forget and the retain set alone, and would
not see that `undo` lost the rest."""


def chosen(names: Sequence[str]) -> dict[str, Candidate]:
    """The named candidates, in that order.

    Raises:
        ExpungeError: an unknown candidate.
    """
    require_names("candidates", names)
    for name in names:
        if name not in CANDIDATES:
            raise unknown("candidate", name, CANDIDATES)
    return {name: CANDIDATES[name] for name in names}
