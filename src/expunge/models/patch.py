"""Patches: the difference between two models of one kind, small enough to send and exact enough to take back.

For every weight that differs a patch holds the exclusive or of the old and the new bits. The same bits turn the base
into the result and the result into the base, exactly, at half the size of keeping both values.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from expunge.core.checks import ExpungeError, path_of
from expunge.core.manifest import Manifest
from expunge.core.tensor_file import reading, save_tensors
from expunge.masks.storage import pack, unpack
from expunge.masks.units import Part
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import check_model

FORMAT = "expunge patch 1"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Change:
    """What differs in one tensor."""

    part: Part
    """Shape, and what the bits stand for: single weights, or slices along a dimension."""
    bits: Tensor
    """Packed selection of the weights or slices that differ, uint8."""
    flips: Tensor
    """Exclusive or of old and new bits there, integers as wide as the weights: [K], or the slices as they are."""

    @property
    def weights(self) -> int:
        """Number of weights held."""
        return self.flips.numel()

    def fits(self, tensor: Tensor) -> bool:
        """Is it whole, and made for such a tensor?"""
        if tuple(tensor.shape) != self.part.shape or self.flips.dtype != _INTEGERS[tensor.element_size()]:
            return False
        if self.bits.numel() != -(-self.part.units // 8):
            return False
        chosen = int(unpack(self.bits, self.part.units).sum())
        if self.part.cut == "weights":
            return tuple(self.flips.shape) == (chosen,)
        shape = list(self.part.shape)
        shape[self.part.dim] = chosen
        return list(self.flips.shape) == shape

    def flip(self, tensor: Tensor) -> None:
        """Turn the old values into the new ones, or the new into the old, in place."""
        where = unpack(self.bits, self.part.units).nonzero().flatten().to(tensor.device)
        as_integers = tensor.view(_INTEGERS[tensor.element_size()])
        flips = self.flips.to(tensor.device)
        if self.part.cut == "weights":
            flat = as_integers.view(-1)
            flat.index_copy_(0, where, flat.index_select(0, where) ^ flips)
        else:
            dim = self.part.dim
            as_integers.index_copy_(dim, where, as_integers.index_select(dim, where) ^ flips)


@dataclass(frozen=True)
class Patch:
    """What turns one model into another, and back."""

    changes: Mapping[str, Change]
    base: str
    """Fingerprint of the model that it applies to."""
    result: str
    """Fingerprint of the model that comes out."""
    manifest: Manifest | None = None
    """How the result was made, where that is known."""

    @property
    def weights(self) -> int:
        """Number of weights held."""
        return sum(change.weights for change in self.changes.values())

    def apply(self, model: nn.Module) -> None:
        """Turn the base into the result, in place.

        Raises:
            ExpungeError: the model is not the base; or the patch was damaged, and the model is as before.
        """
        self._flip(model, self.base, self.result, "apply")

    def revert(self, model: nn.Module) -> None:
        """Turn the result into the base again, bit for bit, in place.

        Raises:
            ExpungeError: the model is not the result; or the patch was damaged, and the model is as before.
        """
        self._flip(model, self.result, self.base, "revert")

    def _flip(self, model: nn.Module, before: str, after: str, what: str) -> None:
        found = model_fingerprint(model)
        if found != before:
            other = {self.base: "base", self.result: "result"}.get(found)
            hint = f" It is the patch's {other}." if other else " It is neither the patch's base nor its result."
            raise ExpungeError(f"cannot {what} the patch: it needs the model {before}, and this one is {found}.{hint}")
        tensors = model.state_dict()
        for name, change in self.changes.items():
            if name not in tensors or not change.fits(tensors[name]):
                raise ExpungeError(f"the patch is damaged: its part for '{name}' is not whole. The model is as it was.")
        for _ in range(2):
            for name, change in self.changes.items():
                change.flip(tensors[name].detach())
            if model_fingerprint(model) == after:
                return
        raise ExpungeError(f"the patch is damaged: it does not lead to the model {after}. The model is as it was.")

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        parts: dict[str, list[object]] = {}
        for name, change in self.changes.items():
            tensors |= {f"{name}:bits": change.bits, f"{name}:flips": change.flips.contiguous()}
            parts[name] = [list(change.part.shape), change.part.cut, change.part.dim]
        header = {"format": FORMAT, "base": self.base, "result": self.result, "parts": json.dumps(parts)}
        if self.manifest is not None:
            header["manifest"] = json.dumps(asdict(self.manifest), default=str)
        save_tensors(tensors, path, header)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Patch":
        """Read what `save` wrote.

        Raises:
            ExpungeError: there is no such file, or it holds no patch of ours.
        """
        if not path_of("path", path).is_file():
            raise ExpungeError(f"no patch at {path}. Make one: expunge patch create base=... model=... output={path}")
        with reading(path, "patch"), safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ExpungeError(
                    f"{path} holds no patch: its format is {header.get('format')!r}, and '{FORMAT}' is read here."
                )
            parts = {n: Part(tuple(s), cut, n, dim) for n, (s, cut, dim) in json.loads(header["parts"]).items()}
            changes = {
                name: Change(part, file.get_tensor(f"{name}:bits"), file.get_tensor(f"{name}:flips"))
                for name, part in parts.items()
            }
            manifest = Manifest(**json.loads(header["manifest"])) if "manifest" in header else None
            return cls(changes, header["base"], header["result"], manifest)


def make_patch(base: nn.Module, result: nn.Module, *, manifest: Manifest | None = None) -> Patch:
    """What turns one model into another of the same configuration.

    Args:
        base: the model before, such as the start model.
        result: the model after.
        manifest: how the result was made.

    Raises:
        ExpungeError: the two do not have the same tensors; the first that differs is named.
    """
    check_model(base, "base")
    check_model(result, "result")
    before, after = base.state_dict(), result.state_dict()
    for name in dict.fromkeys([*before, *after]):
        shown = [
            f"{tuple(tensors[name].shape)} {tensors[name].dtype}" if name in tensors else "missing"
            for tensors in (before, after)
        ]
        if shown[0] != shown[1]:
            raise ExpungeError(
                f"a patch joins models with the same tensors, and '{name}' is {shown[0]} in the base and {shown[1]} in "
                "the result. Load both in the same type."
            )
    return patch_of(result, before.items(), base=model_fingerprint(base), manifest=manifest)


def patch_of(
    result: nn.Module, before: Iterable[tuple[str, Tensor]], *, base: str, manifest: Manifest | None = None
) -> Patch:
    """A patch from what some tensors of a model were before; all others are the same in the base.

    Args:
        result: the model after.
        before: names in its state dict, each with the tensor of the base.
        base: fingerprint of the base.
        manifest: how the result was made.
    """
    after, changes, seen = result.state_dict(keep_vars=True), {}, set()
    for name, old in before:
        new = after[name]
        if id(new) in seen:
            continue  # a tied weight counts once
        seen.add(id(new))
        change = _difference(name, old.detach().cpu(), new.detach().cpu())
        if change is not None:
            changes[name] = change
    return Patch(changes, base, model_fingerprint(result), manifest)


def _difference(name: str, old: Tensor, new: Tensor) -> Change | None:
    """The difference of two tensors, as single weights or as slices along a dimension, whichever takes fewest bytes."""
    integers = _INTEGERS[old.element_size()]
    flips = old.contiguous().view(integers) ^ new.contiguous().view(integers)
    differs = flips != 0
    if not differs.any():
        return None
    shape, width = tuple(old.shape), old.element_size()
    best = Part(shape, "weights", name), differs.reshape(-1)
    smallest = width * int(differs.sum()) + old.numel() / 8
    for dim in range(old.dim()):
        part = Part(shape, "slices", name, dim)
        along = differs.movedim(dim, 0).reshape(part.units, -1).any(1)
        size = width * int(along.sum()) * (old.numel() // part.units) + part.units / 8
        if size <= smallest:
            best, smallest = (part, along), size
    part, chosen = best
    where = chosen.nonzero().flatten()
    held = flips.view(-1)[where] if part.cut == "weights" else flips.index_select(part.dim, where)
    return Change(part, pack(chosen), held.contiguous())
