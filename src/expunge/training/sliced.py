"""Gradients of the selected part of a weight only: what masked training puts in the place of a module's own weight.

The values of the selected entries live in a compact leaf tensor. A module computes with its whole weight as ever; the
gradient is taken with respect to the compact tensor.
T = rows times positions, I = inputs, O = outputs, K = selected inputs or outputs.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

Gather = Callable[[Tensor], Tensor]


class _SlicedLinear(torch.autograd.Function):
    """`x W^T + b`, whose weight gradient is computed for K of W's rows or columns: T O K products, not T O I."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, index: Tensor, of_inputs: bool
    ) -> Tensor:
        ctx.of_inputs, ctx.values_like = of_inputs, values.dtype
        ctx.save_for_backward(x.index_select(-1, index) if of_inputs else x, weight, index)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, weight, index = ctx.saved_tensors
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        flat = gradient.flatten(0, -2)
        of_bias = flat.sum(0) if ctx.needs_input_grad[2] else None
        outputs = flat if ctx.of_inputs else flat.index_select(-1, index)
        of_values = (outputs.t() @ kept.flatten(0, -2)).to(ctx.values_like)
        return of_x, None, of_bias, of_values, None, None


class _Routed(torch.autograd.Function):
    """A frozen parameter as it is, whose gradient goes, gathered, to the compact tensor of its selected entries."""

    @staticmethod
    def forward(ctx: FunctionCtx, parameter: Tensor, values: Tensor, gather: Gather) -> Tensor:  # type: ignore[override]
        ctx.gather, ctx.values_like = gather, values.dtype  # type: ignore[attr-defined]
        return parameter.detach()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        return None, ctx.gather(gradient).to(ctx.values_like), None


def slices_linear(module: nn.Module, name: str) -> bool:
    """Can the weight gradient of this parameter be computed for slices alone?"""
    return type(module) in (nn.Linear, Conv1D) and name == "weight"


def slice_linear(module: nn.Module, values: nn.Parameter, index: Tensor, dim: int) -> Callable[[], None]:
    """Let a linear layer differentiate only the slices `index` of its weight along `dim`.

    Args:
        module: an `nn.Linear`, weight [O, I], or transformers' `Conv1D`, weight [I, O].
        values: the selected slices, [O, K] or [K, I] (for `Conv1D` [K, O] or [I, K]); it receives the gradient.
        index: of the slices, [K].
        dim: of the weight.

    Returns:
        A function that undoes it.
    """
    turned = type(module) is Conv1D
    of_inputs = (dim == 0) if turned else (dim == 1)
    own = vars(module).get("forward")

    def forward(x: Tensor) -> Tensor:
        weight, bias = as_autocast(cast(Tensor, module.weight)), cast(Tensor | None, module.bias)
        out = _SlicedLinear.apply(  # type: ignore[no-untyped-call]
            as_autocast(x),
            weight.t() if turned else weight,
            as_autocast(bias) if bias is not None else None,
            values.t() if turned else values,
            index,
            of_inputs,
        )
        return cast(Tensor, out)

    def undo() -> None:
        vars(module).pop("forward")
        if own is not None:
            module.forward = own

    module.forward = forward
    return undo


def route(module: nn.Module, name: str, values: nn.Parameter, gather: Gather) -> Callable[[], None]:
    """Let a module send the gradient of one parameter to a compact tensor; returns a function that undoes it.

    Args:
        module: any module that uses the parameter in its own forward pass.
        name: of the parameter inside the module.
        values: the selected entries; receives the gradient.
        gather: from a tensor of the parameter's shape, the selected entries in the shape of `values`.
    """

    def before(_module: nn.Module, _inputs: Any) -> None:
        # Python looks here before it asks the module for its parameters, which stay what state_dict sees.
        vars(module).pop(name, None)
        vars(module)[name] = _Routed.apply(getattr(module, name), values, gather)  # type: ignore[no-untyped-call]

    def after(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        vars(module).pop(name, None)

    handles: list[RemovableHandle] = [
        module.register_forward_pre_hook(before),
        module.register_forward_hook(after, always_call=True),
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()
        vars(module).pop(name, None)

    return undo


def as_autocast(tensor: Tensor) -> Tensor:
    """A tensor in the type in which autocast would compute a linear layer; unchanged outside of it."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))
