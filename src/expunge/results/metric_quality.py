"""How good a metric is: does it separate models that know from those that do not, and is it hard to fool? No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, harmonic_mean


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One metric of one unlearned model, before and after attacks."""

    model: str
    before: float
    relearned: float
    quantized: Mapping[int, float]
    """Bits -> value."""
    resistance: float
    """R: 1 where it relearns no faster than a model that never knew."""
    stability: Mapping[int, float]
    """Bits -> Q: 1 where rounding brings nothing back."""
    left_out: str = ""
    """Why the model says nothing about this metric; empty where it counts."""


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """How far one metric can be trusted; all shares in [0, 1], higher is better."""

    metric: str
    knowing: Mapping[str, float]
    """Its values for models that were trained on the knowledge."""
    ignorant: Mapping[str, float]
    """Its values for models that were not."""
    faithfulness: float
    """AUC of telling the two apart."""
    interval: tuple[float, float]
    """95 % interval of it, over models."""
    threshold: float
    """Value that separates the two best."""
    attacked: tuple[Attacked, ...] = ()

    @property
    def counted(self) -> tuple[Attacked, ...]:
        """The unlearned models that seem to have forgotten by this metric and kept their utility."""
        return tuple(one for one in self.attacked if not one.left_out)

    @property
    def resistance(self) -> float | None:
        """Mean R over the models that count; None without one."""
        return fmean(one.resistance for one in self.counted) if self.counted else None

    def stability(self, bits: int) -> float | None:
        """Mean Q at a number of bits, likewise."""
        return fmean(one.stability[bits] for one in self.counted) if self.counted else None

    @property
    def robustness(self) -> float | None:
        """Harmonic mean of R and of Q at 4 bits."""
        q = self.stability(4)
        return None if self.resistance is None or q is None else harmonic_mean([self.resistance, q])

    @property
    def overall(self) -> float | None:
        """Harmonic mean of faithfulness and robustness."""
        return None if self.robustness is None else harmonic_mean([self.faithfulness, self.robustness])
