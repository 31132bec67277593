"""Jensen-Shannon divergence from the uniform distribution."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.logprobs import counts, kept_logprobs, masked_sum
from expunge.objectives.method import Method

METHOD = Method(reduction="token", tokenwise=True)


def js_uniform(
    logits: Float[Tensor, "b c v"], completion_mask: Bool[Tensor, "b c"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Pull the next-token distribution on forget text toward the uniform one.

        m_t = (p_t + u) / 2,  u = 1 / V;     value_i = sum_t (KL(p_t || m_t) + KL(u || m_t)) / 2
        step value = sum_i value_i / sum_i n_i

    In nats; each token's term is in [0, ln 2), 0 if p is uniform.

    Args:
        logits: scores that predict each completion token, [B, C, V].
        completion_mask: true at completion positions, [B, C].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: a fork of open-unlearning; not checked against a paper.
    Defaults: gamma 1, alpha 1, retain `nll`, 10 epochs.
    Departures: the fork sums over all positions, padding included, per row of the batch, and multiplies by 0.2.
    """
    log_p = kept_logprobs(logits, completion_mask)
    log_u = -math.log(log_p.shape[-1])
    log_m = torch.logaddexp(log_p, torch.full_like(log_p, log_u)) - math.log(2)
    divergence = ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_u - log_m).mean(-1)) / 2
    return masked_sum(divergence, completion_mask), counts(completion_mask, divergence)
