"""The diagonal of the empirical Fisher information on the forget set."""

from jaxtyping import Float
from torch import Tensor


def fisher(forget_squares: Float[Tensor, "u k"], unit: str) -> Float[Tensor, " u"]:
    """Diagonal of the empirical Fisher information: squared gradients of single examples.

        F = (1 / N) * sum over forget examples i of (grad NLLavg_i)^2
        weight:  F          value_vector, neuron:  sum of F over the unit's weights          matrix:  mean of F

    Unlike the gradient of the mean loss, gradients of examples that point against each other do not cancel.

    Args:
        forget_squares: mean over examples of the squared gradient, [U, K].
        unit: what a unit is.

    Returns:
        One information a unit, [U], 0 or above.

    Source: diagonal empirical Fisher, Kirkpatrick et al. 2017, arXiv:1612.00796; the forget side of Foster et al. 2023,
    arXiv:2308.07707. The forms for larger units are ours: information of independent weights adds.
    Departures: gradients of each example's token mean, labels from the data, never of a batch.
    """
    return forget_squares.mean(1) if unit == "matrix" else forget_squares.sum(1)
