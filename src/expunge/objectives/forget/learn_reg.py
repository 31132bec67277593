"""Training on the forget set that holds on to the retain set."""

from jaxtyping import Float
from torch import Tensor

from expunge.objectives.forget.learn import learn
from expunge.objectives.method import Method

METHOD = Method(reduction="token")


def learn_reg(
    logprobs: Float[Tensor, " b"], counts: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Teach the forget set, as `learn` does, while a retain loss, by default the NLL, keeps the rest.

        value_i = -sum_t log p_t          L = gamma * sum_i value_i / sum_i n_i + alpha * L_retain

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        counts: completion tokens of each row, [B].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: the controlled set-up of Lee et al. 2025, arXiv:2505.16252.
    Defaults: gamma 1, alpha 1, retain `nll`, 10 epochs.
    Departures: a token mean of the whole step.
    """
    return learn(logprobs, counts)
