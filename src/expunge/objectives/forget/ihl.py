"""Inverted hinge loss."""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor

from expunge.core.logprobs import counts, kept, masked_sum, token_logprobs
from expunge.objectives.method import Method

METHOD = Method(reduction="token", tokenwise=True, epochs=5, learning_rate=1e-4)


def ihl(
    logits: Float[Tensor, "b c v"], targets: Int[Tensor, "b c"], completion_mask: Bool[Tensor, "b c"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Inverted hinge: raise the second most probable token above the true one, with a bounded loss.

        p_t = softmax(logits_t);     value_i = sum_t (1 + p_t,y - max_{v != y} p_t,v)
        step value = sum_i value_i / sum_i n_i

    Each token's term is in [0, 2]. The published outer max(0, .) has no effect, since the difference is at least -1.

    Args:
        logits: scores that predict each completion token, [B, C, V].
        targets: the completion tokens y, [B, C]; a valid id at every position.
        completion_mask: true at completion positions, [B, C].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: Cha et al. 2025 (LoKU), OpenReview 1ExfUpmIW4, arXiv:2408.06621.
    Defaults: gamma 1, alpha 1, retain `nll`, 5 epochs; learning rate 1e-4, meant for LoRA or FILA.
    Departures: the hinge function behind the reference code skips the softmax if all logits are already in [0, 1];
    it is always applied here.
    """
    scores = kept(logits, completion_mask)
    runners_up = scores.scatter(-1, targets.unsqueeze(-1), -math.inf).argmax(-1)
    terms = 1 + token_logprobs(scores, targets).exp() - token_logprobs(scores, runners_up).exp()
    return masked_sum(terms, completion_mask), counts(completion_mask, terms)
