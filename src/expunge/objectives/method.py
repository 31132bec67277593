"""What a loss file says about itself next to its function: how it is reduced and which settings go with it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """The settings that travel with a loss, kept in its module as `METHOD`."""

    reduction: Literal["token", "sequence"]
    """`token`: the step's value is sum(values) / sum(counts). `sequence`: it is the mean of values over sequences."""
    gamma: float = 1.0
    """Default weight of the forget loss."""
    alpha: float = 1.0
    """Default weight of the retain loss."""
    retain: str = "nll"
    """Default retain loss; `none` for methods that use no retain set."""
    epochs: float = 10
    """Default number of passes over the forget set."""
    learning_rate: float = 1e-5
    """Default peak learning rate for full-parameter training, chosen on models of 1 to 8 billion parameters."""
    observes: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters with defaults that say what is read from the model (`layer`, `positions`),
    not what is computed."""
    dual: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters with defaults of primal-dual training (`eps`, `dual_step`, `dual_warmup`), for methods whose
    retain weight is a multiplier that moves during training."""
    generates: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters with defaults (`alternates`, `alternate_temperature`) of methods whose alternate answers the
    start model makes up itself where the data has none."""
    perturbs: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters with defaults (`perturbation`, `noise`) of methods that shrink and perturb the start model's
    weights before the first step."""
    compares_with: Literal["start", "other"] = "start"
    """Whose values the loss is shown as reference: the start model's, or another model's, which a run does not have."""
    trains: Literal["all", "down_projections"] = "all"
    """Which parameters are trained by default: all, or the MLP down-projections of the three blocks up to `layer`."""
    tokenwise: bool = False
    """For losses that read `logits`: is a row's loss the sum over its completion tokens (reduction `token`) or their
    mean (`sequence`) of what the loss gives each of them as a row of its own? It is then computed from a few tokens'
    logits at a time; else the logits of all completion tokens are held at once."""
    skips: str | None = None
    """Name of the hyperparameter that leaves out leading completion tokens, which the token count
    must leave out too."""

    @property
    def beside(self) -> dict[str, Any]:
        """Hyperparameters with defaults that belong to the method, and not to its function."""
        return {**self.observes, **self.dual, **self.generates, **self.perturbs}


def method_of(function: Callable[..., Any]) -> Method:
    """The `METHOD` next to a loss function; without one, a token mean with all defaults."""
    found = getattr(sys.modules[function.__module__], "METHOD", None)
    return found if isinstance(found, Method) else Method(reduction="token")
