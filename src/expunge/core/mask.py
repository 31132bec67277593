"""Masks: what of a model may change.

A `Layout` says how parameters are cut into units, a `Mask` which of these units are selected.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.core.selection import top

Unit = Literal["weight", "value_vector", "neuron", "matrix"]
Cut = Literal["weights", "slices", "whole"]

FORMAT = "expunge mask 1"


@dataclass(frozen=True)
class Part:
    """How one parameter is cut into units.

    Attributes:
        shape: the parameter's shape.
        cut: every weight a unit (`weights`), every index along `dim` one (`slices`), or the parameter as one (`whole`).
        group: units of one group are switched together in all parameters of that group: a neuron lies in three.
        dim: for `slices`, the dimension along which units lie; for `weights`, the one that counts outputs: its indices
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
            shared = one = two = 0
            for name in dict.fromkeys([*self.layout.parts, *other.layout.parts]):
                found = [mask.dense(name) if name in mask.layout.parts else None for mask in (self, other)]
                a, b = found
                if a is not None and b is not None:
                    if a.shape != b.shape:
                        raise ExpungeError(
                            f"masks of different models: {name} is {list(a.shape)} in the one, "
                            f"{list(b.shape)} in the other."
                        )
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
        layout, manifest, _ = read_header(Path(path), FORMAT, "mask")
        with safe_open(path, framework="pt") as file:
            bits = {group: file.get_tensor(group) for group in layout.groups}
        return cls(layout, bits, manifest)


def _derived(how: str, *masks: Mask, seed: int | None = None, **more: Any) -> Manifest | None:
    """The manifest of a mask made out of others: what they were made from, and how they were joined."""
    known = [mask.manifest for mask in masks if mask.manifest is not None]
    if not known:
        return None
    arguments = {"made_by": how, "of": [manifest.arguments for manifest in known], **more}
    inputs = {k: v for manifest in reversed(known) for k, v in manifest.inputs.items()}
    return Manifest(stage="localize", arguments=arguments, seed=seed, inputs=inputs)


def write(
    path: Path, tensors: dict[str, Tensor], layout: Layout, manifest: Manifest | None, header: dict[str, str]
) -> Path:
    """Write tensors with layout and manifest into one safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {**header, "layout": json.dumps(layout.to_json())}
    if manifest is not None:
        header["manifest"] = json.dumps(asdict(manifest), default=str)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file(tensors, partial, metadata=header)
    partial.replace(path)
    return path


def read_header(path: Path, form: str, what: str) -> tuple[Layout, Manifest | None, dict[str, str]]:
    """Layout, manifest and header of a file that `write` wrote.

    Raises:
        ExpungeError: no such file, or one that holds something else.
    """
    if not path.is_file():
        raise ExpungeError(f"no {what} at {path}. Make one: expunge localize model=... forget=... output=...")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ExpungeError(f"{path} is no safetensors file, so it holds no {what}: {error}") from error
    if header.get("format") != form:
        raise ExpungeError(
            f"{path} holds no {what}: its format is {header.get('format')!r}, and '{form}' is read here."
        )
    manifest = Manifest(**json.loads(header["manifest"])) if "manifest" in header else None
    return Layout.from_json(json.loads(header["layout"])), manifest, header


def pack(selected: Tensor) -> Tensor:
    """Bool `[n]` to uint8 `[ceil(n / 8)]`, lowest bit first."""
    return torch.from_numpy(np.packbits(selected.cpu().numpy(), bitorder="little"))


def unpack(bits: Tensor, n: int) -> Tensor:
    """The inverse of `pack`."""
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=n, bitorder="little").view(np.bool_))


_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def popcount(bits: Tensor) -> int:
    """How many bits are set."""
    return sum(int(_ONES[piece].sum(dtype=np.int64)) for piece in _pieces(bits.numpy()))


def _pieces(array: NDArray[np.uint8], size: int = 2**24) -> Iterator[NDArray[np.uint8]]:
    return (array[start : start + size] for start in range(0, len(array), size))
