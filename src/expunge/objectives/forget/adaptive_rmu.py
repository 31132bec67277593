"""Representation misdirection whose target grows with the hidden state that it replaces."""

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.checks import require_positive
from expunge.core.logprobs import mean_squared_distance, wide
from expunge.objectives.forget._direction import steering_direction
from expunge.objectives.method import Method

METHOD = Method(
    reduction="sequence",
    alpha=1200.0,
    retain="hidden",
    learning_rate=5e-5,
    observes={"layer": None, "positions": "holding"},
    trains="down_projections",
)


def adaptive_rmu(
    hidden: Float[Tensor, "b c d"],
    reference_hidden: Float[Tensor, "b c d"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    scale: float = 5.0,
    direction: Float[Tensor, " e"] | None = None,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """Adaptive RMU: steer each hidden state to `scale` times its start-model norm along one fixed random direction.

        u ~ Uniform[0, 1)^D, drawn once from `seed`;     u <- u / ||u||
        value_i = (1 / n_i) * sum over completion positions t of
                  mean_d (hidden_i,t - scale * ||reference_hidden_i,t|| * u)^2

    The norm of hidden states grows with depth. RMU's fixed coefficient therefore fits only early layers; this scale
    fits every layer.

    Args:
        hidden: output of decoder block `layer` at positions that hold a completion token, [B, C, D].
        reference_hidden: the same under the frozen start model, [B, C, D]; carries no gradient.
        completion_mask: true at completion positions, [B, C].
        scale: above 0; the target's norm in units of the start model's.
        direction: a vector to use instead of a drawn one, [D]; divided by its norm.
        seed: random seed of the direction, which depends only on it and on D.

    Returns:
        One squared distance per sequence, [B], 0 or above.

    Raises:
        ExpungeError: `scale` is not above 0, or `direction` is not D finite numbers with a norm above 0.

    Source: Dang et al. 2024, arXiv:2408.06223.
    Defaults: scale 5, alpha 1200, learning rate 5e-5 (the published code's, on Zephyr 7B), gamma 1, retain `hidden`;
    layer min(7, blocks // 3), as for `rmu`.
    Departures: the norm is taken token by token, our reading of the paper. The published code takes one number for the
    whole run, the mean norm over the first batch of each topic, which depends on the order of the data and on padding.
    Completion positions only, as in `rmu`.
    """
    require_positive("adaptive_rmu: scale", scale, hint="The published code has 5.")
    unit = steering_direction("adaptive_rmu", hidden, direction=direction, seed=seed, normalize=True)
    norm = wide(reference_hidden).norm(dim=-1, keepdim=True)
    return mean_squared_distance(hidden, scale * norm * unit, completion_mask)
