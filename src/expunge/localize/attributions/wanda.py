"""Weights times the size of their inputs."""

from jaxtyping import Float
from torch import Tensor

from expunge.localize.attribution import Attribution

ATTRIBUTION = Attribution(units=("weight",), scope="per_row", observes={"positions": "predicting", "examples": 128})


def wanda(weights: Float[Tensor, "u k"], mean_squared_inputs: Float[Tensor, " u"]) -> Float[Tensor, " u"]:
    """Weight times the norm of its input on forget examples; ranked inside every output row.

        score_oj = |W_oj| * sqrt( mean over tokens of x_j^2 )          x the input of the linear layer

    Args:
        weights: W, [U, 1].
        mean_squared_inputs: mean x_j^2 for the input j of each weight, [U].

    Returns:
        One score a weight, [U], 0 or above.

    Source: Sun et al. 2023 (Wanda), arXiv:2306.11695, as WAGLE (arXiv:2410.17509) uses it on 128 forget examples.
    Departures: positions that predict completion tokens (`positions="all"`: every real token; the reference counts
    padding too); a mean instead of a sum, which changes no ranking inside a row.
    """
    return weights[:, 0].abs() * mean_squared_inputs.sqrt()
