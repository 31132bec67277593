"""Gradient ascent weighted by saturation and importance."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.checks import require_at_least
from expunge.core.logprobs import counts, kept
from expunge.objectives.method import Method

METHOD = Method(reduction="token", alpha=0.1, epochs=5)


def satimp(
    token_logprobs: Float[Tensor, "b c"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    beta1: float = 5.0,
    beta2: float = 1.0,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Ascent on tokens that are not yet forgotten (saturation) and not trivial to predict (importance).

        w_t = sg[ p_t ** beta1 * (1 - p_t) ** beta2 ];     value_i = sum_t w_t * log p_t
        step value = sum_i value_i / sum_i n_i

    `sg` stops the gradient; 1 - p_t is computed as -expm1(log p_t), floored at 0. Never positive; `beta1=beta2=0` is
    `grad_ascent`.

    Args:
        token_logprobs: log p of each completion token, natural log, [B, C].
        completion_mask: true at completion positions, [B, C].
        beta1: 0 or above; weight of saturation.
        beta2: 0 or above; weight of importance.

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Raises:
        ExpungeError: a hyperparameter is negative.

    Source: Yang et al. 2025, arXiv:2505.11953.
    Defaults: beta1 5, beta2 1, gamma 1, alpha 0.1, retain `nll`, 5 epochs. Published defaults disagree: gamma and alpha
    are those of the authors' note in open-unlearning, whose own file has 0.1 and 1; the authors' repository has beta2
    0.1.
    Departures: none.
    """
    require_at_least("satimp: beta1", beta1, 0, hint="Papers use 5 to 6.")
    require_at_least("satimp: beta2", beta2, 0, hint="Papers use 0.1 to 1.")
    logprobs = kept(token_logprobs, completion_mask)
    now = logprobs.detach()
    weights = (beta1 * now).exp() * torch.expm1(now).neg().clamp(min=0) ** beta2
    return (weights * logprobs).sum(-1), counts(completion_mask, logprobs)
