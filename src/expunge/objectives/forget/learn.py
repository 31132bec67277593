"""Plain training on the forget set: to put knowledge into chosen weights before it is taken out."""

from jaxtyping import Float
from torch import Tensor

from expunge.core.logprobs import wide
from expunge.objectives.method import Method

METHOD = Method(reduction="token", alpha=0.0, retain="none")


def learn(
    logprobs: Float[Tensor, " b"], counts: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Teach the forget set: its negative log-likelihood, the opposite of `grad_ascent`.

        value_i = -sum_t log p_t          step value = sum_i value_i / sum_i n_i

    With a mask the knowledge is stored only in the masked weights, so that localization can be tested against a known
    answer.

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        counts: completion tokens of each row, [B].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: the controlled set-up of Lee et al. 2025, arXiv:2505.16252.
    Defaults: gamma 1, alpha 0, no retain loss, 10 epochs.
    Departures: a token mean of the whole step.
    """
    return -wide(logprobs), counts
