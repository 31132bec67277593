"""Alternate preference optimization: the start model's own other answers over the true one."""

from jaxtyping import Float
from torch import Tensor

from expunge.core.checks import require_positive
from expunge.objectives.forget.dpo import dpo
from expunge.objectives.method import Method

METHOD = Method(reduction="sequence", epochs=10, generates={"alternates": 5, "alternate_temperature": 1.0})


def altpo(
    logprobs: Float[Tensor, " b"],
    alternate_logprobs: Float[Tensor, " b"],
    reference_logprobs: Float[Tensor, " b"],
    reference_alternate_logprobs: Float[Tensor, " b"],
    *,
    beta: float = 0.1,
) -> Float[Tensor, " b"]:
    """Alternate preference optimization: `dpo` toward plausible answers sampled from the start model.

        h_i     = (alternate_logprobs_i - reference_alternate_logprobs_i) - (logprobs_i - reference_logprobs_i)
        value_i = -(2 / beta) * log_sigmoid(beta * h_i)

    AltPO differs from `dpo` in the data: five alternates per question, sampled from the start model at temperature 1.
    If the data has none, a training run samples them and stores them in its folder. Never negative; (2 / beta) * ln 2
    at the reference model.

    Args:
        logprobs: log p(true completion | prompt), summed over its tokens, natural log, [B].
        alternate_logprobs: the same of the alternate answer, [B].
        reference_logprobs: of the true completion under the frozen start model, [B]; carries no gradient.
        reference_alternate_logprobs: of the alternate answer under the frozen start model, [B]; carries no gradient.
        beta: above 0.

    Returns:
        One loss per sequence, [B].

    Raises:
        ExpungeError: `beta` is not above 0.

    Source: Mekala et al. 2024, arXiv:2409.13474.
    Defaults: beta 0.1, gamma 1, alpha 1, retain `nll`, 10 epochs.
    Departures: the factor 2 / beta, as in `dpo`. A question is one row per epoch, with one of its alternates drawn for
    each epoch. The published runs take 2 epochs over one row for each of five alternates: the same number of visits.
    """
    require_positive("altpo: beta", beta, hint="Papers use 0.05 to 0.5.")
    return dpo(logprobs, alternate_logprobs, reference_logprobs, reference_alternate_logprobs, beta=beta)
