"""How strongly forget completions use a value vector."""

import torch
from jaxtyping import Float
from torch import Tensor

from expunge.localize.attribution import Attribution

ATTRIBUTION = Attribution(units=("value_vector", "neuron"), observes={"positions": "predicting"})


def activation(
    value_vectors: Float[Tensor, "u d"], mean_inputs: Float[Tensor, " u"], *, norm: bool = True
) -> Float[Tensor, " u"]:
    """Use of each value vector by the forget completions: an MLP channel's mean contribution to the residual stream.

        m_j(t) = input of the down-projection, channel j, at position t     ( = act(gate) * up for gated MLPs )
        a_j    = mean over all forget completion positions t of |m_j(t)|   *   ||v_j||_2

    Positions are those that predict completion tokens; the mean is over the tokens of the whole set.

    Args:
        value_vectors: v_j, the column of the down-projection that channel j scales, [U, D].
        mean_inputs: mean |m_j|, [U].
        norm: multiply by ||v_j||_2.

    Returns:
        One use a value vector, [U], 0 or above.

    Source: `activation` of Lee et al. 2025, arXiv:2505.16252; its formula is not known to us, this is our reading.
    Departures: not known.
    """
    return mean_inputs * torch.linalg.vector_norm(value_vectors, dim=1) if norm else mean_inputs
