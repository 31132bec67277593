"""The size of the forget gradient."""

from jaxtyping import Float
from torch import Tensor

from expunge.localize.attributions._reduce import size


def gradient(forget_gradients: Float[Tensor, "u k"], unit: str) -> Float[Tensor, " u"]:
    """Size of the forget loss's gradient, as SalUn's saliency.

        weight:                |g_f|
        value_vector, neuron:  ||g_f,u||_2
        matrix:                mean |g_f|

    Args:
        forget_gradients: gradient of the forget objective at the start model, [U, K].
        unit: what a unit is.

    Returns:
        One size a unit, [U], 0 or above.

    Source: Fan et al. 2023 (SalUn), arXiv:2310.12508, eq. 3. The forms for larger units are ours.
    Departures: an early commit of SalUn's repository ranks ascending and keeps the least salient weights.
    """
    return size(forget_gradients, unit)
