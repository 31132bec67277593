"""Representation misdirection for unlearning."""

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.checks import require_positive
from expunge.core.logprobs import mean_squared_distance
from expunge.objectives.forget._direction import steering_direction
from expunge.objectives.method import Method

METHOD = Method(
    reduction="sequence",
    alpha=100.0,
    retain="hidden",
    learning_rate=5e-5,
    observes={"layer": None, "positions": "holding"},
    trains="down_projections",
)


def rmu(
    hidden: Float[Tensor, "b c d"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    coefficient: float = 20.0,
    direction: Float[Tensor, " e"] | None = None,
    seed: int = 0,
    normalize: bool = True,
) -> Float[Tensor, " b"]:
    """Representation misdirection: steer the hidden states of forget text to one fixed random direction.

        u ~ Uniform[0, 1)^D, drawn once from `seed`;     u <- u / ||u||;     target = coefficient * u
        value_i = (1 / n_i) * sum over completion positions t of mean_d (hidden_i,t - target)^2

    Args:
        hidden: output of decoder block `layer` at positions that hold a completion token, [B, C, D].
        completion_mask: true at completion positions, [B, C].
        coefficient: above 0; the norm of the target if `normalize` is true.
        direction: a vector to use instead of a drawn one, [D]; divided by its norm too, unless `normalize` is off.
        seed: random seed of the direction, which depends only on it and on D.
        normalize: divide the direction by its norm.

    Returns:
        One squared distance per sequence, [B], 0 or above.

    Raises:
        ExpungeError: `coefficient` is not above 0, or `direction` is not D finite numbers with a norm above 0.

    Source: Li et al. 2024 (WMDP), arXiv:2403.03218.
    Defaults: coefficient 20, gamma 1, alpha 100, retain `hidden`, learning rate 5e-5; layer min(7, blocks // 3); the
    paper trains the MLP down-projections of blocks layer - 2 to layer for 80 steps at a constant rate.
    Departures: a run uses the common schedule (10 epochs, warm-up, linear decay) unless it is set otherwise, for
    example `schedule=constant warmup=0 epochs=...`. Completion positions only, where the original averages over padding
    too. open-unlearning divides [B] by [B, 1], right only for rows of equal length, and trains all parameters with
    coefficient 2. G-effect leaves u un-normalized (norm about sqrt(D / 3)): `normalize=False`; it reads the positions
    that predict a completion token: `positions="predicting"`; its `rmu_x` reads block x - 1.
    """
    require_positive("rmu: coefficient", coefficient, hint="Papers use 2 to 300, 6.5 to 20 at 7 billion parameters.")
    target = coefficient * steering_direction("rmu", hidden, direction=direction, seed=seed, normalize=normalize)
    return mean_squared_distance(hidden, target.expand_as(hidden), completion_mask)
