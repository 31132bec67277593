"""Models whose weights are on several devices, or kept elsewhere and brought in for each pass (accelerate's hooks)."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook
from torch import Tensor, nn

from expunge.core.checks import ExpungeError


def offloading(module: nn.Module) -> AlignDevicesHook | None:
    """What brings the own weights of a module in for each pass; None where they are where it computes."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in hook.hooks if isinstance(hook, SequentialHook) else (hook,):
        if isinstance(one, AlignDevicesHook) and one.offload:
            return one
    return None


def input_device(model: nn.Module) -> torch.device:
    """Where a model's first layer computes, which is where token ids go."""
    module, weight = next((m, p) for m in model.modules() for p in m.parameters(recurse=False))
    hook = offloading(module)
    return weight.device if hook is None else torch.device(hook.execution_device)  # type: ignore[arg-type]


def kept_weight(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """The values of a parameter or buffer, wherever they are kept.

    Args:
        model: that it is of.
        name: of the tensor in it.
        tensor: what the model holds under this name; without values where it is offloaded.
    """
    if tensor.device.type != "meta":
        return tensor
    owner, _, own = name.rpartition(".")
    hook = offloading(model.get_submodule(owner))
    if hook is None:
        return tensor
    assert hook.weights_map is not None
    kept: Tensor = hook.weights_map[own]
    return kept


def kept_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a model by name, with its values, one at a time."""
    for name, parameter in model.named_parameters():
        yield name, kept_weight(model, name, parameter.detach())


def is_spread(model: nn.Module) -> bool:
    """Are the weights on several devices, or offloaded?"""
    return len({p.device for p in model.parameters()}) > 1 or any(offloading(m) for m in model.modules())


def refuse_spread(model: nn.Module, what: str) -> None:
    """Raise for a model on several devices or offloaded, where its weights are to be changed in place."""
    if is_spread(model):
        raise ExpungeError(
            f"{what} changes weights in place, and this model is spread over devices or offloaded. Load it onto one "
            "device, or divide its weights among processes (sharded=true) to train it."
        )
