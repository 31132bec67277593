"""Preference optimization of TOFU ("IDK"): train the refusal as the answer."""

from jaxtyping import Float
from torch import Tensor

from expunge.core.logprobs import wide
from expunge.objectives.method import Method

METHOD = Method(reduction="token")


def idk(
    alternate_logprobs: Float[Tensor, " b"], alternate_counts: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Refusal training: the negative log-likelihood of an alternate answer, such as "I don't know.".

        value_i = -sum_t log p(alternate token t)          step value = sum_i value_i / sum_i n_i, n of the alternates

    The true answer is not used: its probability falls only because the alternate's rises.

    Args:
        alternate_logprobs: log p(alternate answer | prompt), summed over its tokens, natural log, [B].
        alternate_counts: completion tokens of each alternate row, [B].

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Source: Maini et al. 2024 (TOFU), arXiv:2401.06121, "preference optimization".
    Defaults: gamma 1, alpha 1, retain `nll`, 10 epochs.
    Departures: refusal and retain terms are token means of their own, weighted by gamma and alpha (the variant
    "separate"). TOFU takes one token mean over refusal and retain rows together ("joint"), which a loss on the forget
    set alone cannot express; it is not implemented.
    """
    return -wide(alternate_logprobs), alternate_counts
