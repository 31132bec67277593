"""Weight mixing: the models on the straight line between two, made in place one after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expunge.core.checks import ExpungeError, require_between
from expunge.models.anatomy import causal_lm
from expunge.models.load import refuse_adapters


@contextmanager
def mixing(start: nn.Module, unlearned: nn.Module) -> Iterator[Callable[[float], None]]:
    """Let `start` become (1 - alpha) * start + alpha * unlearned, in place; afterwards it is itself again.

    Each changed tensor is mixed in float32 (float64 where it is float64) and cast once. Shares 0 and 1 give the two
    models bit for bit. Tensors in which the two agree are neither copied nor touched.

    Args:
        start: the start model, changed meanwhile.
        unlearned: the unlearned model, of the same shape and types; only read.

    Yields:
        A function that takes alpha in [0, 1] and makes `start` the mixture.

    Raises:
        ExpungeError: models of unlike tensors, or adapters that are not merged.

    Source: UWC, arXiv:2406.09179.
    """
    refuse_adapters(start)
    refuse_adapters(unlearned)
    pairs = list(_changed(causal_lm(start), causal_lm(unlearned)))

    @torch.no_grad()
    def mix(alpha: float) -> None:
        require_between("alpha", alpha, 0, 1)
        for here, before, after in pairs:
            if alpha in (0, 1):
                here.copy_(after if alpha else before)
                continue
            wide = torch.promote_types(here.dtype, torch.float32)
            here.copy_((1 - alpha) * before.to(wide) + alpha * after.to(wide))

    try:
        yield mix
    finally:
        mix(0.0)


def _changed(start: nn.Module, unlearned: nn.Module) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(tensor of the start model, its value, the unlearned model's value) wherever the two differ in a bit."""
    ours, theirs = start.state_dict(), unlearned.state_dict()
    seen: set[int] = set()
    for name in sorted({*ours, *theirs}):
        here, there = ours.get(name), theirs.get(name)
        if here is None or there is None or here.shape != there.shape or here.dtype != there.dtype:
            told = [
                "none" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in (here, there)
            ]
            raise ExpungeError(
                f"only models of one shape and type mix: '{name}' is {told[0]} in the start model and {told[1]} in the "
                "unlearned one. Was it unlearned from this start model? dtype= loads both as the same type."
            )
        if here.data_ptr() in seen and here.numel():
            continue  # a tied weight is mixed once
        seen.add(here.data_ptr())
        there = there.to(here.device)
        if torch.equal(_bits(here), _bits(there)):
            continue
        if not here.is_floating_point():
            raise ExpungeError(f"'{name}' differs between the models and holds {here.dtype}, which cannot be mixed.")
        yield here, here.clone(), there


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
