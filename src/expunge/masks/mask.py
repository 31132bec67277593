"""Masks: what of a model may change. A `Layout` says how parameters are cut into units, a mask which are selected."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from expunge.core.checks import ExpungeError, nearest, path_of
from expunge.core.manifest import Manifest
from expunge.core.tensor_file import reading
from expunge.masks.storage import pack, popcount, read_header, unpack, write
from expunge.masks.top_k import top
from expunge.masks.units import Layout, Part

FORMAT = "expunge mask 1"


class Share(NamedTuple):
    """How much of the eligible parameters is selected, each in [0, 1]."""

    units: float
    weights: float


class Overlap(NamedTuple):
    """How much two selections agree, each in [0, 1]; NaN where nothing is selected in either."""

    iou: float
    """Intersection over union (Jaccard)."""
    coefficient: float
    """Intersection over the smaller of the two."""


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

    @classmethod
    def of(cls, model: nn.Module, selected: Mapping[str, Tensor]) -> "Mask":
        """A mask of single weights, from what may change of each parameter; parameters not named never change.

        Args:
            model: the causal language model itself, out of any wrapper.
            selected: parameter name, as in `model.named_parameters()`, to a bool tensor of that parameter's shape. A
                tied parameter may go by any of its names; the mask holds it under the first.

        Raises:
            ExpungeError: nothing is given; a name that the model does not have; a tensor that is not bool or has
                another shape; or two selections for one tied parameter.
        """
        if not selected:
            raise ExpungeError("a mask needs at least one parameter: Mask.of(model, {name: bool tensor, ...}).")
        there = dict(model.named_parameters(remove_duplicate=False))
        first: dict[int, str] = {}
        for name, parameter in there.items():
            first.setdefault(id(parameter), name)
        chosen: dict[str, Tensor] = {}
        for name, value in selected.items():
            if name not in there:
                near = nearest(name, there)
                hint = f"Did you mean '{near[0]}'?" if near else "model.named_parameters() lists the names."
                raise ExpungeError(f"{type(model).__name__} has no parameter '{name}'. {hint}")
            if not isinstance(value, Tensor) or value.dtype != torch.bool:
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ExpungeError(
                    f"{name}: a selection must be a bool tensor; got {got}. Compare first: scores > 0.5."
                )
            if value.shape != there[name].shape:
                raise ExpungeError(
                    f"{name}: the selection has the shape {list(value.shape)}, the parameter "
                    f"{list(there[name].shape)}; they must be the same. Rows or columns: selection.expand(shape)."
                )
            home, value = first[id(there[name])], value.cpu()
            if home in chosen and not torch.equal(chosen[home], value):
                raise ExpungeError(f"'{home}' and '{name}' are one tied parameter; give it one selection.")
            chosen[home] = value
        parts = {name: Part(tuple(chosen[name].shape), "weights", name) for name in there if name in chosen}
        return cls(Layout("weight", parts), {name: pack(chosen[name].flatten()) for name in parts})

    @property
    def recipe(self) -> dict[str, Any] | None:
        """How it was made, without the seeds: two draws of one recipe have the same; None where nothing says how."""
        if self.manifest is None:
            return None
        made, data = self.manifest, self.manifest.results.get("data", {})
        return {
            "arguments": _seedless(made.arguments),
            "inputs": {name: made.inputs[name] for name in ("model", "tokenizer") if name in made.inputs},
            "data": {split: about["content"] for split, about in data.items()},
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same = self.layout == other.layout
        return same and all(torch.equal(bits, other.bits[group]) for group, bits in self.bits.items())

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

    def counts(self) -> dict[str, int]:
        """Group name to the number of its units that are selected."""
        return {group: popcount(self.bits[group]) for group in self.layout.groups}

    def share(self) -> Share:
        """Selected units and weights over all eligible ones."""
        sizes, weights, counts = self.layout.groups, self.layout.weights_a_unit, self.counts()
        of_weights = sum(n * weights[group] for group, n in counts.items())
        return Share(
            sum(counts.values()) / sum(sizes.values()),
            of_weights / sum(n * weights[group] for group, n in sizes.items()),
        )

    def overlap(self, other: "Mask") -> Overlap:
        """Agreement of two masks: over units where both are cut alike, else over weights."""
        if not self.layout.difference(other.layout):
            shared = sum(popcount(self.bits[group] & other.bits[group]) for group in self.bits)
            one, two = sum(self.counts().values()), sum(other.counts().values())
        else:
            self.layout.check_one_model(other.layout)
            shared = one = two = 0
            for name in dict.fromkeys([*self.layout.parts, *other.layout.parts]):
                found = [mask.dense(name) if name in mask.layout.parts else None for mask in (self, other)]
                a, b = found
                if a is not None and b is not None:
                    shared += int((a & b).sum())
                one += int(a.sum()) if a is not None else 0
                two += int(b.sum()) if b is not None else 0
        union, smaller = one + two - shared, min(one, two)
        return Overlap(shared / union if union else math.nan, shared / smaller if smaller else math.nan)

    def __and__(self, other: "Mask") -> "Mask":
        return self._joined(other, "and", torch.bitwise_and)

    def __or__(self, other: "Mask") -> "Mask":
        return self._joined(other, "or", torch.bitwise_or)

    def __invert__(self) -> "Mask":
        sizes = self.layout.groups
        # Bits beyond the last unit stay 0: they are counted and compared like all others.
        full = {group: pack(torch.ones(n, dtype=torch.bool)) for group, n in sizes.items()}
        bits = {group: self.bits[group] ^ full[group] for group in sizes}
        return Mask(self.layout, bits, _derived("not", self))

    def _joined(self, other: "Mask", how: str, join: Callable[[Tensor, Tensor], Tensor]) -> "Mask":
        if difference := self.layout.difference(other.layout):
            raise ExpungeError(f"only masks that are cut alike can be joined: {difference}.")
        bits = {group: join(self.bits[group], other.bits[group]) for group in self.bits}
        return Mask(self.layout, bits, _derived(how, self, other))

    def complement(self, seed: int, *, scope: str = "global", matched: bool = False) -> "Mask":
        """A uniformly random selection of as many units from outside the mask: the control of the same size.

        Source: the random region of Lee et al. 2025, arXiv:2505.16252 (our reading of `random_complement`).

        Args:
            seed: of the draw, which depends on it and on the mask alone.
            scope: `global` matches the number of units over all parameters, `per_matrix` in each of them.
            matched: the same as `scope="per_matrix"`.

        Raises:
            ExpungeError: fewer units are left outside than are selected, or an unknown scope.
        """
        if scope not in ("global", "per_matrix"):
            raise ExpungeError(f"scope must be global or per_matrix; got {scope!r}.")
        sizes, counts = self.layout.groups, self.counts()
        per_matrix = matched or scope == "per_matrix"
        number = {group: i for i, group in enumerate(sizes)}

        def lots(group: str, start: int, stop: int) -> NDArray[np.float32]:
            # Any finite positive float with equal chance, so that two lots of billions are hardly ever equal.
            drawn = np.random.default_rng([seed, number[group], start]).integers(
                0x7F800000, size=stop - start, dtype=np.uint32
            )
            bits = self.bits[group][start // 8 :].numpy()
            inside = np.unpackbits(bits, count=stop - start, bitorder="little").view(np.bool_)
            return np.where(inside, np.float32(-1), drawn.view(np.float32))

        bits: dict[str, Tensor] = {}
        for groups in [[group] for group in sizes] if per_matrix else [list(sizes)]:
            k, n = sum(counts[g] for g in groups), sum(sizes[g] for g in groups)
            if 2 * k > n:
                where = f"{groups[0]}: " if per_matrix else ""
                raise ExpungeError(
                    f"{where}{k} of {n} units are selected, so only {n - k} are left outside, too few for a random "
                    "selection of the same size."
                )
            if k == 0:
                bits |= {g: torch.zeros_like(self.bits[g]) for g in groups}
            else:
                bits |= top({g: sizes[g] for g in groups}, lots, k)
        how = "per_matrix" if per_matrix else "global"
        return Mask(self.layout, bits, _derived("random complement", self, seed=seed, scope=how))

    def check(self, model: nn.Module) -> None:
        """Raise unless the mask fits a model: every parameter there, in the same shape.

        Args:
            model: the causal language model itself, out of any wrapper.

        Raises:
            ExpungeError: it does not; the message names the first parameter that differs.
        """
        self.layout.check(model)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: one bit a unit, with the layout and the manifest in its header."""
        return write(Path(path), dict(self.bits), self.layout, self.manifest, {"format": FORMAT})

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read what `save` wrote.

        Raises:
            ExpungeError: there is no such file, or it holds no mask of ours.
        """
        layout, manifest, _ = read_header(path_of("path", path), FORMAT, "mask")
        with reading(path, "mask"), safe_open(path, framework="pt") as file:
            bits = {group: file.get_tensor(group) for group in layout.groups}
            return cls(layout, bits, manifest)


def _derived(how: str, *masks: Mask, seed: int | None = None, **more: Any) -> Manifest | None:
    """The manifest of a mask made out of others: what they were made from, and how they were joined."""
    known = [mask.manifest for mask in masks if mask.manifest is not None]
    if not known:
        return None
    arguments = {"made_by": how, "of": [manifest.arguments for manifest in known], **more}
    inputs = {k: v for manifest in reversed(known) for k, v in manifest.inputs.items()}
    data = {k: v for manifest in reversed(known) for k, v in manifest.results.get("data", {}).items()}
    return Manifest(stage="localize", arguments=arguments, seed=seed, inputs=inputs, results={"data": data})


def _seedless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _seedless(part) for name, part in value.items() if name != "seed"}
    return [_seedless(part) for part in value] if isinstance(value, list) else value
