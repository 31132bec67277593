"""A localization as far as it is known before a model is loaded: the attribution, its unit, its hyperparameters."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least, require_between, require_type, unknown
from expunge.localize.attribution import ALIASES, INPUTS, attribution_of
from expunge.masks.units import Unit

_OF_FORGET = {"forget_gradients", "forget_squares", "mean_inputs", "mean_squared_inputs"}


@dataclass(frozen=True)
class Plan:
    """An attribution with everything filled in that can be without a model's weights."""

    name: str
    function: Callable[..., Any]
    unit: Unit
    own: Mapping[str, Any]
    """Hyperparameters of the function."""
    reading: Mapping[str, Any]
    """Hyperparameters that say how data is read."""
    objective: str
    of_objective: Mapping[str, Any] = field(default_factory=dict)
    depth: int | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The inputs of the function."""
        return frozenset(catalogue.needs(self.function))

    @property
    def splits(self) -> tuple[str, ...]:
        """The sets that it looks at."""
        forget = ("forget",) if self.needs & _OF_FORGET else ()
        return (*forget, *(("retain",) if "retain_gradients" in self.needs else ()))

    def check(self, gradient: str, retain_examples: int | None) -> None:
        """Refuse what the attribution would not look at.

        Raises:
            ExpungeError: an unknown reduction of gradients, one without gradients that are reduced, or a number of
                retain examples where none is looked at.
        """
        if gradient not in ("mean", "sum"):
            raise ExpungeError(f"gradient must be 'mean' or 'sum'; got {gradient!r}.")
        if gradient != "mean" and not {"forget_gradients", "retain_gradients"} & self.needs:
            raise ExpungeError(f"{self.name} takes no gradient of a whole set, so gradient={gradient} changes nothing.")
        if retain_examples is not None and "retain" not in self.splits:
            raise ExpungeError(f"{self.name} uses no retain examples, so retain_examples changes nothing.")


def planned(
    attribution: str,
    unit: str | None,
    hyperparameters: Mapping[str, Any],
    forget_objective: str = "nll",
    depth: int | None = None,
) -> Plan:
    """Fill in an attribution; arguments as for `localize`, `depth` is the number of decoder blocks.

    Raises:
        ExpungeError: an unknown attribution or hyperparameter, a unit that it is not defined for, or a forget objective
            for one that takes no gradient.
    """
    require_type("attribution", attribution, str, "a name")
    name = attribution.replace("-", "_") if ":" not in attribution else attribution
    if name in ALIASES:
        name, fixed = ALIASES[name]
        if unit not in (None, fixed):
            raise ExpungeError(f"{attribution} scores {fixed}s; leave out unit={unit}, or use attribution={name}.")
        unit = fixed
    function = catalogue.resolve("attributions", name)
    about = attribution_of(function)
    for parameter in catalogue.needs(function):
        if parameter not in INPUTS:
            raise unknown("input of attributions", parameter, INPUTS, came_from=name)
    chosen = about.units[0] if unit is None else unit
    if chosen not in about.units:
        raise ExpungeError(f"{name} is not defined for unit={chosen}. It takes: {', '.join(about.units)}.")
    if forget_objective != "nll" and not {"forget_gradients", "forget_squares"} & set(catalogue.needs(function)):
        raise ExpungeError(
            f"{name} takes no gradient of a forget objective, so forget_objective={forget_objective} would change "
            "nothing. Leave it out, or use an attribution by gradients, such as wagle."
        )
    own = dict(catalogue.hyperparameters(function))
    reading = dict(about.observes)
    # What neither the function nor the reading of data knows must be the objective's.
    of_objective = {k: v for k, v in hyperparameters.items() if k not in {*own, *reading}}
    known = {*own, *reading}
    if forget_objective != "nll":
        loss = catalogue.resolve("methods", forget_objective)
        known |= {*catalogue.hyperparameters(loss), "layer", "positions"}
    for key in of_objective:
        if key not in known:
            raise unknown(f"hyperparameter of {name}", key, known)
    own |= {k: v for k, v in hyperparameters.items() if k in own}
    if missing := [k for k, v in own.items() if v is inspect.Parameter.empty]:
        raise ExpungeError(f"{name} needs a value for {', '.join(missing)}, which has no default.")
    reading |= {k: v for k, v in hyperparameters.items() if k in reading}
    _check_reading(reading)
    return Plan(name, function, chosen, own, reading, forget_objective, of_objective, depth)  # type: ignore[arg-type]


def _check_reading(reading: Mapping[str, Any]) -> None:
    if reading.get("positions", "all") not in ("predicting", "all"):
        raise ExpungeError(f"positions must be 'predicting' or 'all'; got {reading['positions']!r}.")
    require_between("label_noise", reading.get("label_noise", 0), 0, 1)
    require_at_least("copies", reading.get("copies", 1), 1)
    require_at_least("examples", reading.get("examples", 1), 1)
