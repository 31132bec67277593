"""Direct preference optimization: an alternate answer over the true one."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from expunge.core.checks import require_positive
from expunge.core.logprobs import wide
from expunge.objectives.method import Method

METHOD = Method(reduction="sequence")


def dpo(
    logprobs: Float[Tensor, " b"],
    alternate_logprobs: Float[Tensor, " b"],
    reference_logprobs: Float[Tensor, " b"],
    reference_alternate_logprobs: Float[Tensor, " b"],
    *,
    beta: float = 0.1,
) -> Float[Tensor, " b"]:
    """Direct preference optimization: prefer an alternate answer to the true one, both relative to the reference model.

        h_i     = (alternate_logprobs_i - reference_alternate_logprobs_i) - (logprobs_i - reference_logprobs_i)
        value_i = -(2 / beta) * log_sigmoid(beta * h_i)

    Never negative; (2 / beta) * ln 2 at the reference model. With refusals as alternates it is known as IdkDPO.

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

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7; for refusals Maini et al. 2024 (TOFU), arXiv:2401.06121.
    Defaults: beta 0.1, gamma 1, alpha 1, retain `nll`, 10 epochs.
    Departures: the factor 2 / beta is open-unlearning's; textbook DPO has none (set gamma = beta / 2 to obtain it). At
    beta 0.1 the factor shifts the balance against the retain term 20-fold. TOFU's own branch reads an undefined
    variable and LoKU's copy replaces the loss by the plain refusal loss; neither is reproduced.
    """
    require_positive("dpo: beta", beta, hint="Papers use 0.05 to 0.5.")
    chosen = wide(alternate_logprobs) - wide(reference_alternate_logprobs)
    rejected = wide(logprobs) - wide(reference_logprobs)
    return -(2 / beta) * F.logsigmoid(beta * (chosen - rejected))
