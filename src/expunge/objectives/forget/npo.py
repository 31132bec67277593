"""Negative preference optimization."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from expunge.core.checks import require_positive
from expunge.core.logprobs import wide
from expunge.objectives.method import Method

METHOD = Method(reduction="sequence")


def npo(
    logprobs: Float[Tensor, " b"], reference_logprobs: Float[Tensor, " b"], *, beta: float = 0.1
) -> Float[Tensor, " b"]:
    """Negative preference optimization: push a completion below its probability under the reference model.

        value_i = -(2 / beta) * log_sigmoid(beta * (reference_logprobs_i - logprobs_i))
                = (2 / beta) * log(1 + (p_i / p_ref,i) ** beta)

    Never negative; falls as p falls. At the reference model it is (2 / beta) * ln 2 with the gradient of `grad_ascent`
    on a sum over tokens; that gradient fades once p is below p_ref.

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        reference_logprobs: the same under the frozen start model, [B]; carries no gradient.
        beta: above 0. As it tends to 0 the gradient becomes that of plain ascent.

    Returns:
        One loss per sequence, [B].

    Raises:
        ExpungeError: `beta` is not above 0.

    Source: Zhang et al. 2024, arXiv:2404.05868, equation 3.
    Defaults: beta 0.1, gamma 1, alpha 1, retain `nll`, 10 epochs.
    Departures: WAGLE's code takes token means inside the sigmoid, muse_bench takes the ratio of raw logits; neither is
    the paper's loss, and neither is offered. To come near their numbers, divide beta and gamma by the mean token count.
    """
    require_positive("npo: beta", beta, hint="Papers use 0.05 to 0.5.")
    return -(2 / beta) * F.logsigmoid(beta * (wide(reference_logprobs) - wide(logprobs)))
