"""What is unlearned and how: the one home of a run's settings, for the command line and for Python.

No torch here, so that the command line can read it in no time.
"""

from dataclasses import dataclass
from typing import Literal

from expunge.config.field_types import check_types
from expunge.core.checks import ExpungeError, require_at_least, require_positive, unknown


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """How the model is made to forget."""

    method: str = "npo"
    """Forget loss: a name of `expunge list methods`, or `package.module:function`."""
    retain_loss: str | None = None
    """Loss on the retain set: a name of `expunge list retain_losses`, or `none`; null: the method's default."""
    gamma: float | None = None
    """Weight of the forget loss; null: the method's default."""
    alpha: float | None = None
    """Weight of the retain loss; null: the method's default."""
    retain_sets: dict[str, float] | None = None
    """Several retain sets with their weights, by split: `retain_sets.retain=1 retain_sets.general=0.5`. Each brings
    `retain_per_forget` rows to a step and has a mean of its own. Null: `retain` alone."""
    reference: Literal["auto", "precomputed", "model"] = "auto"
    """How reference values are obtained: `precomputed` once before training, on the rows that the run will use, or
    from a frozen second `model` (with an adapter: the same model with its adapter bypassed). `auto` precomputes them
    where they fit into a gigabyte."""
    adapter: str | None = None
    """Train low-rank factors instead of the weights: a name of `expunge list adapters`; null: all weights."""
    targets: str | None = None
    """Matrices that the adapter is attached to: `all-linear`, `attention`, `mlp`, or a regular expression on their
    names; null: the method's own matrices (RMU), otherwise all-linear."""
    save: Literal["merged", "adapter", "both"] | None = None
    """What is saved of an adapter: `merged` into the weights, the `adapter` alone, or `both`; null: merged, or the
    adapter alone for one that the model came with."""
    stop_every: float = 1.0
    """Epochs between two evaluations of the stop rule."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("gamma", "alpha"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 0)
        require_positive("stop_every", self.stop_every)
        if self.save not in (None, "merged", "adapter", "both"):
            raise ExpungeError(f"save must be merged, adapter or both; got {self.save!r}.")
        if self.reference not in ("auto", "precomputed", "model"):
            raise unknown("reference policy", str(self.reference), ("auto", "precomputed", "model"))
