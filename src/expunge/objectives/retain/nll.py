"""Negative log-likelihood of the retain set: plain training."""

from jaxtyping import Float
from torch import Tensor

from expunge.core.logprobs import wide
from expunge.objectives.method import Method

METHOD = Method(reduction="token")


def nll(logprobs: Float[Tensor, " b"], counts: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Negative log-likelihood: continue to train on the retain set.

        value_i = -sum_t log p_t          step value = sum_i value_i / sum_i n_i

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        counts: completion tokens of each row, [B].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: Liu et al. 2022, arXiv:2203.12817; Maini et al. 2024 (TOFU), arXiv:2401.06121.
    Defaults: the retain loss of most methods; its weight alpha is set by the method.
    Departures: open-unlearning averages the token means of micro-batches; this is the token mean of the whole step.
    """
    return -wide(logprobs), counts
