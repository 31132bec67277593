"""Chance: the control that every attribution must beat."""

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor


def random(weights: Float[Tensor, "u k"], group: str, seed: int) -> Float[Tensor, " u"]:
    """Chance: every unit equally likely, a control.

        score_u ~ Uniform[0, 1)

    Args:
        weights: only their number counts, [U, K].
        group: each has numbers of its own, whatever else is scored.
        seed: of the draw.

    Returns:
        One number a unit, [U], in [0, 1), float64.

    Source: the control of Lee et al. 2025, arXiv:2505.16252 (`random_down` for value vectors).
    Departures: none.
    """
    own = xxhash.xxh3_64_intdigest(group.encode(), seed=seed) % 2**63
    return torch.rand(len(weights), generator=torch.Generator().manual_seed(own), dtype=torch.float64)
