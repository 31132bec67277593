"""The low-rank part of a matrix under row weights, as the factors of an adapter."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from expunge.models.lowrank import Factors

Svd = Literal["exact", "randomized"]

DELTA = 1e-5
"""Added to row weights before dividing by them."""
OVERSAMPLING, POWER_ITERATIONS = 10, 4


def weighted_factors(
    weight: Float[Tensor, "o i"],
    row_weights: Float[Tensor, " o"],
    *,
    rank: int,
    scaling: float,
    svd: Svd = "exact",
    delta: float = DELTA,
    seed: int = 0,
) -> Factors:
    """Factors whose product is the rank-r part of a matrix that matters most under row weights s.

    With `U S V^T = svd(diag(s) W)`, cut to the top r: `A = sqrt(S / scaling) V^T` and
    `B = diag(1 / (s + delta)) U sqrt(S / scaling)`, so that `scaling * B A` is that part of W.

    Args:
        weight: W, [out, in].
        row_weights: s, [out], not negative.
        rank: r.
        scaling: what the adapter multiplies B A with.
        svd: `exact`, or `randomized` with 10 more columns than the rank and 4 power iterations.
        delta: keeps rows without weight finite.
        seed: of the randomized form.

    Returns:
        Factors in the type of the product of the inputs; the sign of each pair of a row and a column is free.

    Source: LoKU (OpenReview 1ExfUpmIW4), section 3.3. Departures: the randomized form takes more columns than the rank;
    with exactly as many the kept part is noticeably off.
    """
    scaled = row_weights[:, None] * weight
    if svd == "exact":
        u, s, v = _largest(scaled, rank)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            columns = min(rank + OVERSAMPLING, *scaled.shape)
            u, s, v = torch.svd_lowrank(scaled, q=columns, niter=POWER_ITERATIONS)
    root = (s[:rank] / scaling).sqrt()
    return Factors(a=root[:, None] * v.T[:rank], b=(u[:, :rank] * root) / (row_weights[:, None] + delta))


def _largest(matrix: Float[Tensor, "o i"], rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values with their vectors, `(U [o, r], S [r], V [i, r])`.

    They come from the eigenvectors of the smaller of M^T M and M M^T, half the time of a whole decomposition. Products
    square the ratio of singular values, which float64 has room for: what it loses, float32 does not show.
    """
    wide = matrix.double()
    wide = wide if matrix.shape[0] >= matrix.shape[1] else wide.T
    squares, vectors = torch.linalg.eigh(wide.T @ wide)
    values, right = squares[-rank:].flip(0).clamp_min(0).sqrt(), vectors[:, -rank:].flip(1)
    some = values > 1e-12 * values[0]  # what is smaller is rounding, of which no direction can be told
    left = torch.where(some, wide @ right / values.where(some, 1.0), 0.0)
    u, v = (left, right) if matrix.shape[0] >= matrix.shape[1] else (right, left)
    return u.to(matrix.dtype), values.to(matrix.dtype), v.to(matrix.dtype)


def relative_importance(
    forget: Float[Tensor, "o i"], retain: Float[Tensor, "o i"], epsilon: float | Tensor
) -> Float[Tensor, "o i"]:
    """`I = F_f / (epsilon + F_r)`, entry by entry."""
    return forget / (epsilon + retain)


def residual(weight: Float[Tensor, "o i"], factors: Factors, scaling: float) -> Float[Tensor, "o i"]:
    """What is left of a matrix without its adapter: `W - scaling * B A`."""
    return weight - scaling * factors.b @ factors.a
