"""Cross-entropy unlearning."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from expunge.core.checks import require_at_least
from expunge.core.logprobs import counts, kept_logprobs, masked_sum
from expunge.objectives.method import Method

METHOD = Method(reduction="token", tokenwise=True, alpha=0.0, retain="none", skips="ignore_first")


def ceu(
    logits: Float[Tensor, "b c v"],
    targets: Int[Tensor, "b c"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    ignore_first: int = 1,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Cross-entropy unlearning: imitate the model's own distribution with the true token removed.

        q_t = sg[ softmax(logits_t with the logit of y_t at minus infinity) ]
        value_i = -sum_t sum_{v != y} q_t,v * log p_t,v;     counts_i = max(n_i - ignore_first, 0)

    `sg` stops the gradient. A token's gradient is p_y on the true logit and p_v - p_v / (1 - p_y) on the others: it
    vanishes with p_y.

    Args:
        logits: scores that predict each completion token, [B, C, V].
        targets: the completion tokens y, [B, C]; a valid id at every position.
        completion_mask: true at completion positions, [B, C], completions at the left edge.
        ignore_first: 0 or above; how many leading tokens of each completion are left out.

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums. A row shorter than
        `ignore_first` counts 0. A step without any remaining token has no value; the caller must refuse it.

    Raises:
        ExpungeError: `ignore_first` is negative.

    Source: Yang 2025 (CE-U), arXiv:2503.01224.
    Defaults: ignore_first 1, gamma 1, alpha 0, no retain loss, 10 epochs.
    Departures: none.
    """
    require_at_least("ceu: ignore_first", ignore_first, 0, hint="The paper uses 1.")
    mask = completion_mask & (torch.arange(completion_mask.shape[1], device=completion_mask.device) >= ignore_first)
    log_p = kept_logprobs(logits, mask)
    q = log_p.detach().scatter(-1, targets.unsqueeze(-1), -math.inf).softmax(-1)
    cross_entropy = -(q * log_p).sum(-1)
    return masked_sum(cross_entropy, mask), counts(mask, cross_entropy)
