"""Float32 masters: weights that are stored in 16 bits are trained in float32, and rounded once, at the end.

A step of 1e-5 is less than half a unit in the last place of most bfloat16 weights and would be lost, and the second
moment of AdamW in float16 is 0 for small gradients, so that steps become enormous. What a mask selects has masters of
its own (`training.masked`), and the factors of an adapter of ours are float32 from the start.
"""

from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor

from expunge.core.checks import ExpungeError

HALF = (torch.float16, torch.bfloat16)


def widen(model: nn.Module) -> dict[str, torch.dtype]:
    """Hold weights in float32 that are stored in 16 bits: all of a plain model, the trained ones of a PEFT model.

    Args:
        model: changed in place; its parameters stay the same objects.

    Returns:
        The stored types by the names of the widened parameters, for `narrow`.

    Raises:
        ExpungeError: the model is sharded, so that its weights cannot change their type here.
    """
    found = {
        name: p
        for name, p in model.named_parameters()
        if p.dtype in HALF and (p.requires_grad or not isinstance(model, PeftModel))
    }
    if sharded := next((name for name, p in found.items() if isinstance(p, DTensor)), None):
        raise ExpungeError(
            f"the model is sharded and its weights are stored in 16 bits ({sharded}: {found[sharded].dtype}). Training "
            "needs them in float32: load it with dtype=torch.float32; precision=bfloat16 still computes in bfloat16."
        )
    stored = {name: p.dtype for name, p in found.items()}
    for parameter in found.values():
        parameter.data = parameter.data.float()
    return stored


def narrow(model: nn.Module, stored: Mapping[str, torch.dtype]) -> None:
    """Round the weights to the types that `widen` found; those that have them already stay as they are."""
    for name, parameter in model.named_parameters():
        if name in stored:
            parameter.grad = None
            parameter.data = parameter.data.to(stored[name])
