"""Masks: what of a model may change.

A `Layout` says how parameters are cut into units, a `Mask` which of these units are selected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from expunge.core.manifest import Manifest

Unit = Literal["weight", "value_vector", "neuron", "matrix"]
Cut = Literal["weights", "slices", "whole"]


@dataclass(frozen=True)
class Part:
    """How one parameter is cut into units.

    Attributes:
        shape: the parameter's shape.
        cut: every weight a unit (`weights`), every index along `dim` one (`slices`), or the parameter as one (`whole`).
        group: units of one group are switched together in all parameters of that group: a neuron lies in three.
        dim: for `slices`, the dimension along which units lie.
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
        return int(np.prod(self.shape)) if self.cut == "weights" else self.shape[self.dim]


@dataclass(frozen=True)
class Layout:
    """How the eligible parameters of a model are cut into units; parameters not named here never change."""

    unit: Unit
    parts: Mapping[str, Part]

    @property
    def groups(self) -> dict[str, int]:
        """Group name to number of units, in parameter order."""
        return {part.group: part.units for part in self.parts.values()}


@dataclass(frozen=True)
class Mask:
    """Which units may change.

    Attributes:
        layout: the units there are.
        bits: group to packed selection, uint8 `[ceil(units / 8)]`, lowest bit first.
        manifest: how the mask was made.
    """

    layout: Layout
    bits: Mapping[str, Tensor]
    manifest: Manifest | None = field(default=None, compare=False)

    def selected(self, group: str) -> Tensor:
        """The selection of a group: bool `[units]`."""
        return unpack(self.bits[group], self.layout.groups[group])

    def dense(self, name: str) -> Tensor:
        """What of a parameter may change: bool of that parameter's shape."""
        part = self.layout.parts[name]
        chosen = self.selected(part.group)
        if part.cut == "weights":
            return chosen.reshape(part.shape)
        if part.cut == "whole":
            return chosen.expand(part.shape).clone()
        view = [1] * len(part.shape)
        view[part.dim] = part.units
        return chosen.reshape(view).expand(part.shape).clone()

    def indices(self, name: str) -> Tensor:
        """Selected positions of a parameter: flat for `weights`, along `dim` for `slices`, [0] or empty for `whole`."""
        return self.selected(self.layout.parts[name].group).nonzero().flatten()


def pack(selected: Tensor) -> Tensor:
    """Bool `[n]` to uint8 `[ceil(n / 8)]`, lowest bit first."""
    return torch.from_numpy(np.packbits(selected.cpu().numpy(), bitorder="little"))


def unpack(bits: Tensor, n: int) -> Tensor:
    """The inverse of `pack`."""
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=n, bitorder="little").view(np.bool_))
