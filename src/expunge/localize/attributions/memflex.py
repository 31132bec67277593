"""Units whose forget gradient is strong and points elsewhere than the retain gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.checks import ExpungeError, require_between
from expunge.localize.attribution import Attribution
from expunge.localize.attributions._reduce import size

CANDIDATES = "candidates, whose forget gradient points elsewhere than their retain gradient"

ATTRIBUTION = Attribution(observes={"label_noise": 0.0, "copies": 1})


def memflex(
    forget_gradients: Float[Tensor, "u k"],
    retain_gradients: Float[Tensor, "u k"],
    unit: str,
    *,
    mu: float = 0.92,
    variant: str = "rank",
) -> tuple[Float[Tensor, " u"], dict[str, Bool[Tensor, " u"]]]:
    """Strength of the forget gradient, where it points elsewhere than the retain gradient.

        c_u = cosine(g_f,u , g_r,u), 1 if either is 0          m_u = ||g_f,u||_2
        candidates (c_u < mu):  score = m_u          all others:  score = -(1 + c_u)

    Candidates are ranked by strength; behind them come the others, by rising cosine. For single weights the cosine is a
    sign: candidates are weights whose two gradients have opposite signs.

    Args:
        forget_gradients: gradient of the forget objective, [U, K].
        retain_gradients: gradient of the retain objective, [U, K].
        unit: what a unit is.
        mu: cosine below which a unit is a candidate, in [-1, 1].
        variant: `rank`; or `threshold`, where candidates get mean |g_f| instead of m_u, so that with `unit="matrix"`
            `select(threshold=6e-4)` picks what the reference picks.

    Returns:
        Scores, [U], above 0 for candidates with a forget gradient and not above 0 for others; and which units are
        candidates, [U].

    Raises:
        ExpungeError: `mu` outside [-1, 1], or an unknown `variant`.

    Source: Tian et al. 2024 (KnowUnDo, MemFlex), arXiv:2407.01920. The ranking is ours, the reference only thresholds
    (mu 0.92, mean |g_f| 6e-4); `memflex_down` of Lee et al. 2025, arXiv:2505.16252, is `unit="value_vector"`.
    Departures: the reference replaces half of the draws of answer tokens by random tokens, in input and labels, in
    three copies of each example; here the clean answer is used, and `label_noise=0.5, copies=3` gives that back.
    """
    require_between("memflex: mu", mu, -1, 1)
    if variant not in ("rank", "threshold"):
        raise ExpungeError(f"memflex: variant must be 'rank' or 'threshold'; got {variant!r}.")
    strength = torch.linalg.vector_norm(forget_gradients, dim=1)
    other = torch.linalg.vector_norm(retain_gradients, dim=1)
    zero = (strength == 0) | (other == 0)
    one = torch.ones_like(strength)
    # Divided one by one, so that the cosine of two single weights is exactly 1 or -1 and ties stay ties.
    forget = forget_gradients / torch.where(zero, one, strength)[:, None]
    retain = retain_gradients / torch.where(zero, one, other)[:, None]
    cosine = torch.where(zero, one, (forget * retain).sum(1))
    candidates = cosine < mu
    kept = strength if variant == "rank" else size(forget_gradients, "matrix")
    return torch.where(candidates, kept, -(1 + cosine)), {CANDIDATES: candidates}
