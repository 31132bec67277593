"""Gradient surgery: take out of the forget gradient what would raise the retain loss."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.core.distributed import is_main
from expunge.core.tensor_file import save_tensors
from expunge.models.fingerprint import whole
from expunge.training.optimizer_file import divided_as

FILE = "surgery.safetensors"


def project(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """Remove from one gradient its component against another.

        forget <- forget - (<forget, retain> / |retain|^2) * retain        where <forget, retain> < 0

    Inner products run over all tensors together, in float64.

    Args:
        forget: gradient of the forget loss, one tensor a parameter.
        retain: gradient of the retain loss, tensors of the same shapes.

    Returns:
        The projected gradient (new tensors where the two conflict, else those given), and their cosine before; a
        cosine of 0 where either is 0.

    Source: Wang et al. 2025 (GRU), arXiv:2503.09117, projection of the forget gradient.
    """

    def inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        products = [(a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)]
        return float(whole(sum(products[1:], products[0])))  # divided gradients have a part of it on each process

    product, lengths = inner(forget, retain), (inner(forget, forget), inner(retain, retain))
    if not all(lengths):
        return list(forget), 0.0
    cosine = product / (lengths[0] * lengths[1]) ** 0.5
    if product >= 0:
        return list(forget), cosine
    return [f - (product / lengths[1]) * r for f, r in zip(forget, retain, strict=True)], cosine


class Surgery:
    """Keeps the two gradients of a step apart, and the running mean of the retain gradient over steps.

    One more copy of the trained gradients for the step's retain gradient, one for its mean.
    """

    def __init__(self, model: nn.Module, *, smoothing: float) -> None:
        """Set up for the parameters of `model` that are trained.

        Args:
            model: what is trained.
            smoothing: weight of the newest retain gradient in the running mean, above 0 to 1.
        """
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.smoothing = smoothing
        self.retain: dict[str, Tensor | None] = dict.fromkeys(self.parameters)
        self.mean: dict[str, Tensor] = {}

    def swap(self) -> None:
        """Exchange the gradients that the parameters hold for those put aside."""
        for name, parameter in self.parameters.items():
            parameter.grad, self.retain[name] = self.retain[name], parameter.grad

    @torch.no_grad()
    def operate(self) -> float:
        """At the end of a step: leave the projected forget gradient in the parameters; the cosine before."""
        forget, retain = {}, {}
        for name, parameter in self.parameters.items():
            forget[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            newest = self.retain[name]
            newest = torch.zeros_like(parameter) if newest is None else newest
            before = self.mean.get(name, newest)
            retain[name] = before.lerp(newest, self.smoothing)
        self.mean = retain
        projected, cosine = project(list(forget.values()), list(retain.values()))
        for parameter, gradient in zip(self.parameters.values(), projected, strict=True):
            parameter.grad = gradient
        self.retain = dict.fromkeys(self.parameters)
        return cosine

    def save(self, folder: Path) -> None:
        """Write the running mean next to a checkpoint, whole; all processes must ask for it, and the first writes."""
        gathered = {}
        for name, tensor in self.mean.items():
            in_one = whole(tensor)
            if is_main():
                gathered[name] = in_one.cpu().contiguous()
        if is_main():
            save_tensors(gathered, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.mean = {
            name: divided_as(tensor, self.parameters[name]) for name, tensor in load_file(folder / FILE).items()
        }
