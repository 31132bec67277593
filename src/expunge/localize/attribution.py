"""What an attribution says about itself next to its function, and what it can be shown.

An attribution is a pure function of one group of units at a time. Its positional parameter names say what it needs, out
of `INPUTS`; its keyword-only parameters are its hyperparameters. It returns scores, [U], or (scores, notes): notes are
truth values, [U], whose share over all units is reported.

U = units of the group, K = weights of one unit: 1 for `weight`, the group's weights over its units otherwise.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.masks.scores import Scope
from expunge.masks.units import Unit

INPUTS = {
    "weights": "the weights of each unit, [U, K]",
    "value_vectors": "the column of the down-projection of each unit, [U, D]; value vectors and neurons only",
    "forget_gradients": "the gradient of the forget objective, [U, K]",
    "retain_gradients": "the gradient of the retain objective, [U, K]",
    "forget_squares": "mean over forget examples of the squared gradient of each, [U, K]",
    "mean_inputs": "mean |input| of the channel that the unit's weights multiply, [U]",
    "mean_squared_inputs": "mean squared input of that channel, [U]",
    "unit": "what a unit is",
    "group": "the name of the group",
    "seed": "the seed of the call",
}
"""What a positional parameter of an attribution may be called. All tensors are float64."""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The settings that travel with an attribution, kept in its module as `ATTRIBUTION`."""

    units: tuple[Unit, ...] = ("value_vector", "neuron", "weight", "matrix")
    """Units that it is defined for; the first is its default."""
    scope: Scope = "global"
    """Within what its scores are meant to be ranked."""
    observes: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters with defaults that say how data is read: `positions`, `examples`, `label_noise`, `copies`."""
    readings: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    """Note -> (share above which its reading is given, the reading)."""


def attribution_of(function: Callable[..., Any]) -> Attribution:
    """The `ATTRIBUTION` next to a function; without one, all defaults."""
    found = getattr(sys.modules[function.__module__], "ATTRIBUTION", None)
    return found if isinstance(found, Attribution) else Attribution()


ALIASES: dict[str, tuple[str, Literal["value_vector"]]] = {
    "wagle_down": ("wagle", "value_vector"),
    "memflex_down": ("memflex", "value_vector"),
    "random_down": ("random", "value_vector"),
}
"""Names of the localization paper's configurations (arXiv:2505.16252) -> our attribution and its unit."""
