"""Weighted gradient ascent."""

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.checks import require_at_least
from expunge.core.logprobs import counts, kept
from expunge.objectives.method import Method

METHOD = Method(reduction="token", epochs=5)


def wga(
    token_logprobs: Float[Tensor, "b c"], completion_mask: Bool[Tensor, "b c"], *, beta: float = 1.0
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Weighted gradient ascent: less weight on tokens that are already improbable.

        w_t = sg[p_t] ** beta;     value_i = sum_t w_t * log p_t          step value = sum_i value_i / sum_i n_i

    `sg` stops the gradient. Divided by the token count, not by the sum of weights. Never positive; `beta=0` is
    `grad_ascent`.

    Args:
        token_logprobs: log p of each completion token, natural log, [B, C].
        completion_mask: true at completion positions, [B, C].
        beta: 0 or above; the larger, the sooner a token's weight falls.

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Raises:
        ExpungeError: `beta` is negative.

    Source: Wang et al. 2025 (G-effect), arXiv:2502.19301.
    Defaults: beta 1 (open-unlearning's; G-effect's code falls back to 5), gamma 1, alpha 1, retain `nll`, 5 epochs.
    Departures: none.
    """
    require_at_least("wga: beta", beta, 0, hint="Papers use 0.5 to 5.")
    logprobs = kept(token_logprobs, completion_mask)
    weights = (beta * logprobs.detach()).exp()
    return (weights * logprobs).sum(-1), counts(completion_mask, logprobs)
