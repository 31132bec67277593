"""Shrink and perturb: where the training of a perturbed student starts.

Source: Ash and Adams 2020, arXiv:1910.08475; as the second stage of unlearning, Lee et al. 2025, arXiv:2506.06278.
"""

import math
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from expunge.models.fingerprint import whole
from expunge.objectives.combine import Perturbation
from expunge.training.masked import Selected


@torch.no_grad()
def perturb(model: nn.Module, how: Perturbation, *, seed: int, selected: Selected | None = None) -> None:
    """Shrink and perturb the weights of a model in place.

    The noise of a parameter follows from `seed`, its name and its shape, whatever else is perturbed and on whatever
    device it is.

    Args:
        model: not wrapped yet.
        how: how much.
        seed: of the noise.
        selected: what a mask selects, all that is changed then; None: all parameters.
    """
    if selected is None:
        for name, parameter in model.named_parameters():
            found = perturbed(name, whole(parameter.detach()), how, seed)
            if isinstance(parameter, DTensor):
                found = distribute_tensor(found, parameter.device_mesh, parameter.placements)
            parameter.copy_(found)
        return
    for selection, compact in zip(selected.chosen, selected.compact, strict=True):
        found = perturbed(selection.name, whole(selection.parameter.detach()), how, seed)
        compact.copy_(selection.gather(found))
    selected.write()


def perturbed(name: str, weight: Tensor, how: Perturbation, seed: int) -> Tensor:
    """A weight after it: (1 - perturbation) * weight + perturbation * noise * u, in the weight's own type.

    `u` is what Glorot and Bengio start a matrix from, uniform in +-sqrt(6 / (rows + columns)); 0 for a vector. A
    parameter of more dimensions holds matrices in its last two.

    Args:
        name: of the parameter; its noise is its own.
        weight: its values.
        how: how much.
        seed: of the noise.
    """
    kept = (1 - how.perturbation) * weight.to(torch.promote_types(weight.dtype, torch.float32))
    if weight.dim() > 1:
        number = int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "big", signed=True)
        bound = math.sqrt(6 / (weight.shape[-2] + weight.shape[-1]))
        drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=torch.Generator().manual_seed(number))
        kept += how.perturbation * how.noise * drawn.to(kept)
    return kept.to(weight.dtype)
