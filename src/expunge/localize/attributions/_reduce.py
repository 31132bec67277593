"""From a number a weight to a number a unit."""

import torch
from jaxtyping import Float
from torch import Tensor


def size(values: Float[Tensor, "u k"], unit: str) -> Float[Tensor, " u"]:
    """How large the numbers of each unit are: mean absolute value of a matrix, else the 2-norm (|x| of one weight).

    Args:
        values: numbers of each unit, [U, K].
        unit: what a unit is.
    """
    return values.abs().mean(1) if unit == "matrix" else torch.linalg.vector_norm(values, dim=1)
