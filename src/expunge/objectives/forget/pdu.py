"""Primal-dual unlearning: the forget term; its dual variable is moved by the training engine."""

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.logprobs import counts, kept, masked_sum
from expunge.objectives.method import Method

METHOD = Method(
    reduction="token", tokenwise=True, alpha=100.0, dual={"eps": None, "dual_step": 5.0, "dual_warmup": 5.0}
)


def pdu(
    logits: Float[Tensor, "b c v"], completion_mask: Bool[Tensor, "b c"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Flatten the logits on the forget set, under a constraint on the retain loss.

        value_i = sum_t (max_v z_t,v - mean_v z_t,v)^2          step value = sum_i value_i / sum_i n_i
        L = gamma * L_forget + lambda * (R - eps),  R = retain NLL of the whole step
        after each optimizer step past the warm-up:  lambda <- max(0, lambda + dual_step * (R - eps))

    0 or above, in squared logits; 0 where all logits are equal. This function computes the first line. A training run
    does the rest, with lambda starting at alpha. Outside a run (`compute_loss`) lambda is alpha and eps is not used.

    Args:
        logits: scores z that predict each completion token, [B, C, V].
        completion_mask: true at completion positions, [B, C].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: Entesari et al. 2025, arXiv:2506.05314.
    Defaults: gamma 1, lambda starts at alpha 100, retain `nll`, 10 epochs, dual_step 5, dual_warmup 5 epochs. eps has
    no default: use slightly more than the start model's retain NLL, which the error for a missing eps reports (0.3 on
    TOFU).
    Departures: the reference code gates logit t by label t instead of t + 1, and updates lambda once per micro-batch
    from values of one rank, so that ranks diverge. Here it is updated once per optimizer step, from the loss over all
    ranks.
    """
    scores = kept(logits, completion_mask)
    spread = (scores.amax(-1) - scores.mean(-1)).square()
    return masked_sum(spread, completion_mask), counts(completion_mask, spread)
