"""Token-wise negative preference optimization, and its weighted form."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.checks import require_at_least, require_positive
from expunge.core.logprobs import counts, kept
from expunge.objectives.method import Method

METHOD = Method(reduction="token", epochs=5)


def tnpo(
    token_logprobs: Float[Tensor, "b c"],
    reference_token_logprobs: Float[Tensor, "b c"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    beta: float = 4.0,
    power: float = 0.0,
    eps: float = 0.0,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Token-wise NPO: ascent on each token, fading once its probability is below that under the reference model.

        w_t     = sg[ 2 * p_t ** (beta + power) / (p_t ** beta + p_ref,t ** beta + eps) ]
        value_i = sum_t w_t * log p_t          step value = sum_i value_i / sum_i n_i

    `sg` stops the gradient. `power=0` is TNPO, where w_t = 2 * sigmoid(beta * (log p_t - log p_ref,t)), and equals
    `grad_ascent` at the reference model; `power=1.5` is WTNPO, weighted by the token's own probability too.

    Args:
        token_logprobs: log p of each completion token, natural log, [B, C].
        reference_token_logprobs: the same under the frozen start model, [B, C]; carries no gradient.
        completion_mask: true at completion positions, [B, C].
        beta: above 0; how sharply the weight fades.
        power: 0 or above; extra weight of probable tokens.
        eps: 0 or above; suppresses tokens that are improbable under both models.

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Raises:
        ExpungeError: a hyperparameter is outside its range.

    Source: Wang et al. 2025 (G-effect), arXiv:2502.19301.
    Defaults: beta 4, power 0, eps 0, gamma 1, alpha 1, retain `nll`, 5 epochs.
    Departures: G-effect adds eps = 1e-5, which suppresses tokens with p ** beta well below it (p < 0.056 at beta 4);
    `eps=1e-5` reproduces that.
    """
    require_positive("tnpo: beta", beta, hint="Papers use 1 to 5.")
    require_at_least("tnpo: power", power, 0, hint="TNPO is 0, WTNPO 1.5.")
    require_at_least("tnpo: eps", eps, 0, hint="The published code has 1e-5.")
    logprobs = kept(token_logprobs, completion_mask)
    now, before = logprobs.detach(), kept(reference_token_logprobs, completion_mask).detach()
    # The fraction divided through by p ** beta, in logarithms: nothing in it can underflow to 0 / 0.
    log_eps = math.log(eps) if eps > 0 else -math.inf
    log_denominator = torch.logaddexp(-F.logsigmoid(beta * (now - before)), log_eps - beta * now)
    weights = 2 * (power * now - log_denominator).exp()
    return (weights * logprobs).sum(-1), counts(completion_mask, logprobs)
