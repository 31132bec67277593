"""Sums of gradients over many backward passes, taken as each gradient is there, wherever the weights are."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate.hooks import ModelHook, SequentialHook
from torch import Tensor, nn

from expunge.models.placement import offloading

Add = Callable[[Tensor], None]
"""Adds the gradient of a parameter to its sum, and takes it off the parameter."""


@contextmanager
def collecting(inner: nn.Module, sums: Mapping[str, Tensor], *, squared: bool) -> Iterator[Callable[[], None]]:
    """Evaluation mode, and gradients for the named parameters alone, each added to its sum as soon as it is there.

    Args:
        inner: the model; its parameters are afterwards as they were.
        sums: by name of a parameter, what its gradients are added to.
        squared: add squares.

    Yields:
        To be called after each backward pass.
    """
    training = inner.training
    before = {name: (p.requires_grad, p.grad) for name, p in inner.named_parameters()}
    passing = _Passing(sums, squared=squared)
    adding = {name: _adding(total, squared=squared) for name, total in sums.items()}
    inner.eval()
    inner.requires_grad_(False)
    with ExitStack() as around:
        for name, parameter in inner.named_parameters():
            if name in sums:
                parameter.grad = None
                parameter.requires_grad_(True)
                around.callback(parameter.register_post_accumulate_grad_hook(adding[name]).remove)
        if any(offloading(module) for module in inner.modules()):
            around.enter_context(passing.hooked(inner))
            # Otherwise the weights that the backward pass needs would all stay on the device that computes.
            around.enter_context(torch.autograd.graph.save_on_cpu())
        try:
            yield lambda: _collect(inner, adding, passing)
        finally:
            for name, parameter in inner.named_parameters():
                wanted, gradient = before[name]
                parameter.requires_grad_(wanted)
                parameter.grad = gradient
            inner.train(training)


def _adding(total: Tensor, *, squared: bool) -> Add:
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.to(total.device, total.dtype)
        total.add_(gradient.square() if squared else gradient)
        parameter.grad = None

    return add


def _collect(inner: nn.Module, adding: Mapping[str, Add], passing: "_Passing") -> None:
    # FSDP2 puts gradients on its shards past the hooks of parameters.
    for name, parameter in inner.named_parameters():
        if name in adding and parameter.grad is not None:
            adding[name](parameter)
    passing.collect()


class _Passing:
    """Gradients of weights that are brought in for a pass: other tensors each time, of which the model keeps none."""

    def __init__(self, sums: Mapping[str, Tensor], *, squared: bool) -> None:
        self.sums, self.squared = sums, squared
        self.held: dict[str, Tensor] = {}
        """Of one backward pass, where their sum is to be squared."""

    @contextmanager
    def hooked(self, inner: nn.Module) -> Iterator[None]:
        """Have the gradient of each such weight added to its sum."""
        before: list[tuple[Any, Any]] = []
        try:
            for prefix, module in inner.named_modules():
                names = {own: f"{prefix}.{own}".lstrip(".") for own, _ in module.named_parameters(recurse=False)}
                if offloading(module) and any(name in self.sums for name in names.values()):
                    before.append((module, module._hf_hook))
                    module._hf_hook = SequentialHook(module._hf_hook, _Watching(self, names))  # type: ignore[assignment, arg-type]
            yield
        finally:
            for module, hook in before:
                module._hf_hook = hook

    def add(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        total = self.sums[name]
        gradient = parameter.grad.to(total.device, total.dtype)
        if self.squared:
            self.held[name] = self.held[name] + gradient if name in self.held else gradient
        else:
            total.add_(gradient)
        parameter.grad = None

    def collect(self) -> None:
        for name, gradient in self.held.items():
            self.sums[name].add_(gradient.square())
        self.held.clear()


class _Watching(ModelHook):
    """Watches the weights that have just been brought in."""

    def __init__(self, passing: _Passing, names: Mapping[str, str]) -> None:
        self.passing, self.names = passing, names

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for own, name in self.names.items():
            weight = module.get_parameter(own)
            if name in self.passing.sums and weight.requires_grad:
                weight.register_post_accumulate_grad_hook(lambda p, name=name: self.passing.add(name, p))  # type: ignore[misc]
        return args, kwargs
