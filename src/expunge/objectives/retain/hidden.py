"""Distance of hidden states from those of the reference model on the retain set."""

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.logprobs import mean_squared_distance
from expunge.objectives.method import Method

METHOD = Method(reduction="sequence", observes={"layer": None, "positions": "holding"})


def hidden(
    hidden: Float[Tensor, "b c d"], reference_hidden: Float[Tensor, "b c d"], completion_mask: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Keep the hidden states of retain text close to those of the reference model.

        value_i = (1 / n_i) * sum over completion positions t of mean_d (hidden_i,t - reference_hidden_i,t)^2

    0 at the reference model.

    Args:
        hidden: output of decoder block `layer` at completion positions, [B, C, D]; layer and positions are those of the
            forget term.
        reference_hidden: the same under the frozen start model, [B, C, D]; carries no gradient.
        completion_mask: true at completion positions, [B, C].

    Returns:
        One squared distance per sequence, [B], 0 or above.

    Source: Li et al. 2024 (WMDP), arXiv:2403.03218, retain loss of RMU.
    Defaults: retain loss of `rmu`, weight alpha 100.
    Departures: completion positions only, where the original averages over padding too.
    """
    return mean_squared_distance(hidden, reference_hidden, completion_mask)
