"""The size of weights, whatever the data."""

from jaxtyping import Float
from torch import Tensor

from expunge.localize.attributions._reduce import size


def magnitude(weights: Float[Tensor, "u k"], unit: str) -> Float[Tensor, " u"]:
    """Size of the weights; looks at no data, a control.

        weight:                |theta|
        value_vector, neuron:  ||theta_u||_2
        matrix:                mean |theta|

    Args:
        weights: weights of each unit, [U, K].
        unit: what a unit is.

    Returns:
        One size a unit, [U], 0 or above.

    Source: magnitude pruning, Han et al. 2015, arXiv:1506.02626. The forms for larger units are ours.
    Departures: none.
    """
    return size(weights, unit)
