"""Gradient ascent: raise the loss on the forget set, and nothing else."""

from jaxtyping import Float
from torch import Tensor

from expunge.core.logprobs import wide
from expunge.objectives.method import Method

METHOD = Method(reduction="token", alpha=0.0, retain="none", epochs=5)


def grad_ascent(
    logprobs: Float[Tensor, " b"], counts: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Gradient ascent on the forget set: the mean log-probability of a completion token, to be minimized.

        value_i = sum_t log p_t          step value = sum_i value_i / sum_i n_i

    Never positive and unbounded below: a long run destroys the model. Stop early or add a retain loss (`grad_diff`).

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        counts: completion tokens of each row, [B].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: Jang et al. 2022, arXiv:2210.01504; Maini et al. 2024 (TOFU), arXiv:2401.06121.
    Defaults: no retain loss, 5 epochs.
    Departures: open-unlearning averages the token means of micro-batches; this is the token mean of the whole step.
    """
    return wide(logprobs), counts
