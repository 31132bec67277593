"""Distance of hidden states from those of another model, such as one that never saw the forget set."""

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.logprobs import mean_squared_distance
from expunge.objectives.method import Method

METHOD = Method(reduction="sequence", observes={"layer": None, "positions": "holding"}, compares_with="other")


def rt_diff(
    hidden: Float[Tensor, "b c d"], reference_hidden: Float[Tensor, "b c d"], completion_mask: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Match the hidden states of another model on forget text.

        value_i = (1 / n_i) * sum over completion positions t of mean_d (hidden_i,t - reference_hidden_i,t)^2

    Here the reference is NOT the start model, at which value and gradient are 0. Pass the model to be matched, such as
    a retain model (trained without the forget set), of the same hidden size. The loss tests how close to a retain model
    one gets by changing only some weights.

    Args:
        hidden: output of decoder block `layer` at completion positions, [B, C, D].
        reference_hidden: the same of the model to be matched, [B, C, D]; carries no gradient.
        completion_mask: true at completion positions, [B, C].

    Returns:
        One squared distance per sequence, [B], 0 or above.

    Source: no published code; our reading of a distance from a retrained model, for controlled studies of
    localization such as Lee et al. 2025, arXiv:2505.16252, with the squared distance of RMU (arXiv:2403.03218).
    Defaults: gamma 1, alpha 1, retain `nll` (a retain loss with a reference would compare with the same other model),
    10 epochs; layer min(7, blocks // 3).
    Departures: none known.
    """
    return mean_squared_distance(hidden, reference_hidden, completion_mask)
