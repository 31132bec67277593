"""How the parameters of a model are cut into units: what a mask switches, and what scores are of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from expunge.core.checks import ExpungeError

Unit = Literal["weight", "value_vector", "neuron", "matrix"]
Cut = Literal["weights", "slices", "whole"]


@dataclass(frozen=True)
class Part:
    """How one parameter is cut into units.

    Attributes:
        shape: the parameter's shape.
        cut: every weight a unit (`weights`), every index along `dim` one (`slices`), or the parameter as one (`whole`).
        group: units of one group are switched together in all parameters of that group: a neuron is in three.
        dim: for `slices`, the dimension along which units are; for `weights`, the one that counts outputs: its indices
            are the rows of the scope `per_row`.
    """

    shape: tuple[int, ...]
    cut: Cut
    group: str
    dim: int = 0

    @property
    def units(self) -> int:
        """Number of units."""
        if self.cut == "whole":
            return 1
        return self.numel if self.cut == "weights" else self.shape[self.dim]

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """How the eligible parameters of a model are cut into units; parameters not named here never change."""

    unit: Unit
    parts: Mapping[str, Part]

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, part in self.parts.items():
            if sizes.setdefault(part.group, part.units) != part.units:
                raise ExpungeError(
                    f"{name} has {part.units} units and others of its group {part.group} have {sizes[part.group]}; "
                    "units of one group are switched together."
                )

    @property
    def groups(self) -> dict[str, int]:
        """Group name to number of units, in parameter order."""
        return {part.group: part.units for part in self.parts.values()}

    @property
    def weights_a_unit(self) -> dict[str, int]:
        """Group name to the number of weights that one of its units switches."""
        found: dict[str, int] = {}
        for part in self.parts.values():
            found[part.group] = found.get(part.group, 0) + part.numel // part.units
        return found

    def difference(self, other: "Layout") -> str:
        """The first thing in which another layout differs, in words; empty where the two are the same."""
        if self.unit != other.unit:
            return f"units are {self.unit} in the one and {other.unit} in the other"
        for name in dict.fromkeys([*self.parts, *other.parts]):
            if name not in self.parts or name not in other.parts:
                return f"only one of them holds {name}"
            if self.parts[name] != other.parts[name]:
                one, two = list(self.parts[name].shape), list(other.parts[name].shape)
                return (
                    f"{name} is {one} in the one and {two} in the other" if one != two else f"{name} is cut otherwise"
                )
        return ""

    def check_one_model(self, other: "Layout") -> None:
        """Raise where a parameter that both know has two shapes.

        Raises:
            ExpungeError: the two are of different models; the message names the first parameter that differs.
        """
        for name, part in self.parts.items():
            if name in other.parts and other.parts[name].shape != part.shape:
                raise ExpungeError(
                    f"masks of different models: {name} is {list(part.shape)} in the one, "
                    f"{list(other.parts[name].shape)} in the other."
                )

    def check(self, model: nn.Module) -> None:
        """Raise unless the model has every parameter of this layout in its shape.

        Args:
            model: the causal language model itself, out of any wrapper.

        Raises:
            ExpungeError: it has not; the message names the first parameter that differs.
        """
        there = dict(model.named_parameters(remove_duplicate=False))
        for name, part in self.parts.items():
            if name not in there:
                raise ExpungeError(
                    f"the mask does not fit this model: it is about {name}, which {type(model).__name__} does not "
                    "have. Make one on this model: expunge localize model=..."
                )
            if tuple(there[name].shape) != tuple(part.shape):
                raise ExpungeError(
                    f"the mask does not fit this model: {name} is {list(part.shape)} in the mask and "
                    f"{list(there[name].shape)} in the model. Make one on this model: expunge localize model=..."
                )

    def to_json(self) -> dict[str, Any]:
        """As plain data; `from_json` reads it."""
        return {"unit": self.unit, "parts": {n: [list(p.shape), p.cut, p.group, p.dim] for n, p in self.parts.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Layout":
        """What `to_json` wrote."""
        parts = {n: Part(tuple(shape), cut, group, dim) for n, (shape, cut, group, dim) in content["parts"].items()}
        return cls(content["unit"], parts)
