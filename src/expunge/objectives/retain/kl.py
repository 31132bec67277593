"""Divergence from the reference model on the retain set."""

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core import logprobs
from expunge.core.checks import ExpungeError
from expunge.core.logprobs import kept_logprobs, masked_sum
from expunge.objectives.method import Method

METHOD = Method(reduction="token", tokenwise=True)


def kl(
    logits: Float[Tensor, "b c v"],
    reference_logits: Float[Tensor, "b c v"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    direction: str = "forward",
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Kullback-Leibler divergence between reference and current next-token distributions, on completion tokens.

        forward:  value_i = sum_t sum_v p_ref,v * (log p_ref,v - log p_v)  = KL(reference || current)
        reverse:  value_i = sum_t sum_v p_v * (log p_v - log p_ref,v)      = KL(current || reference)

    In nats; 0 at the reference model and never negative, up to rounding.

    Args:
        logits: scores that predict each completion token, [B, C, V].
        reference_logits: the same under the frozen start model, [B, C, V]; carry no gradient.
        completion_mask: true at completion positions, [B, C].
        direction: `forward` or `reverse`.

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Raises:
        ExpungeError: `direction` is neither.

    Source: Maini et al. 2024 (TOFU), arXiv:2401.06121, "KL minimization".
    Defaults: direction `forward`; retain loss of `kl_min`.
    Departures: TOFU and open-unlearning average over every position, prompt and padding included; muse_bench feeds raw
    logits to the divergence; WAGLE and KnowUnDo drop the entropy term. This is a true divergence, supervised positions
    only.
    """
    if direction not in ("forward", "reverse"):
        raise ExpungeError(f"kl: direction must be 'forward' (usual) or 'reverse'; got {direction!r}.")
    current = kept_logprobs(logits, completion_mask)
    reference = kept_logprobs(reference_logits, completion_mask)
    p, q = (reference, current) if direction == "forward" else (current, reference)
    divergence = (p.exp() * (p - q)).sum(-1)
    return masked_sum(divergence, completion_mask), logprobs.counts(completion_mask, divergence)
