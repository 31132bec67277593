"""Gradient difference: ascend on the forget set, descend on the retain set."""

from jaxtyping import Float
from torch import Tensor

from expunge.objectives.forget.grad_ascent import grad_ascent
from expunge.objectives.method import Method

METHOD = Method(reduction="token", epochs=5)


def grad_diff(
    logprobs: Float[Tensor, " b"], counts: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Gradient difference: `grad_ascent` on the forget set together with a retain loss, by default the NLL.

        value_i = sum_t log p_t          L = gamma * sum_i value_i / sum_i n_i + alpha * L_retain

    The forget term is unbounded below and outgrows the retain term in a long run.

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        counts: completion tokens of each row, [B].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: Liu et al. 2022, arXiv:2203.12817; Maini et al. 2024 (TOFU), arXiv:2401.06121.
    Defaults: gamma 1, alpha 1, retain `nll`, 5 epochs.
    Departures: as for `grad_ascent`, a token mean of the whole step. MemFlex trains the same difference on means
    of each sequence, gamma 0.4 and alpha 2, over the mixed batch.
    """
    return grad_ascent(logprobs, counts)
