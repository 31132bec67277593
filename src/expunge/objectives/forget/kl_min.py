"""KL minimization: ascend on the forget set, stay near the reference model on the retain set."""

from jaxtyping import Float
from torch import Tensor

from expunge.objectives.forget.grad_ascent import grad_ascent
from expunge.objectives.method import Method

METHOD = Method(reduction="token", retain="kl", epochs=5)


def kl_min(
    logprobs: Float[Tensor, " b"], counts: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """KL minimization: `grad_ascent` on the forget set, with divergence from the start model as the retain loss.

        value_i = sum_t log p_t          L = gamma * sum_i value_i / sum_i n_i + alpha * KL(reference || current)

    The forget term is unbounded below and outgrows the retain term in a long run.

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        counts: completion tokens of each row, [B].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: Maini et al. 2024 (TOFU), arXiv:2401.06121.
    Defaults: gamma 1, alpha 1, retain `kl`, 5 epochs.
    Departures: those of `grad_ascent` and of the retain loss `kl`.
    """
    return grad_ascent(logprobs, counts)
