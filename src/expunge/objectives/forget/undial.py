"""Self-distillation with adjusted logits."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from expunge.core.checks import require_at_least
from expunge.core.logprobs import counts, kept_logprobs, lowered, masked_sum
from expunge.objectives.method import Method

METHOD = Method(reduction="token", tokenwise=True, alpha=0.0, retain="none", learning_rate=1e-4)


def undial(
    logits: Float[Tensor, "b c v"],
    reference_logits: Float[Tensor, "b c v"],
    targets: Int[Tensor, "b c"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    beta: float = 10.0,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Self-distillation: imitate the reference model with the true token's logit lowered.

        q_t = softmax(reference_logits_t - beta * onehot(y_t));     value_i = -sum_t sum_v q_t,v * log p_t,v
        step value = sum_i value_i / sum_i n_i

    A cross-entropy with a fixed target, so bounded below by the target's entropy; at `beta=0` the reference model is
    its minimum.

    Args:
        logits: scores that predict each completion token, [B, C, V].
        reference_logits: the same under the frozen start model, [B, C, V]; carry no gradient.
        targets: the completion tokens y, [B, C]; a valid id at every position.
        completion_mask: true at completion positions, [B, C].
        beta: 0 or above; how far the true token's logit is lowered.

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Raises:
        ExpungeError: `beta` is negative.

    Source: Dong et al. 2024, arXiv:2402.10052.
    Defaults: beta 10, gamma 1, alpha 0, no retain loss, learning rate 1e-4, 10 epochs.
    Departures: supervised positions only. The reference code averages over prompt and padding too, and uses the label
    -100 as an index, which lowers the token V - 100 there.
    """
    require_at_least("undial: beta", beta, 0, hint="Papers use 3 to 30.")
    log_p = kept_logprobs(logits, completion_mask)
    q = lowered(reference_logits, targets, beta).softmax(-1)
    cross_entropy = -(q * log_p).sum(-1)
    return masked_sum(cross_entropy, completion_mask), counts(completion_mask, cross_entropy)
