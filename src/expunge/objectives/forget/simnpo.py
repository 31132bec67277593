"""Simple negative preference optimization."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from expunge.core.checks import require_between, require_positive
from expunge.core.logprobs import wide
from expunge.objectives.method import Method

METHOD = Method(reduction="sequence", gamma=0.125)

WIDEST_DELTA = 100.0


def simnpo(
    logprobs: Float[Tensor, " b"], counts: Float[Tensor, " b"], *, beta: float = 4.5, delta: float = 0.0
) -> Float[Tensor, " b"]:
    """NPO without a reference model, on the length-normalized loss.

        value_i = -(2 / beta) * log_sigmoid(beta * (-logprobs_i / n_i - delta))

    Never negative; falls as the mean token probability falls.

    Args:
        logprobs: log p(completion | prompt), summed over completion tokens, natural log, [B].
        counts: completion tokens of each row, n_i, [B]; above 0.
        beta: above 0; how sharply the gradient fades.
        delta: token NLL, in nats, around which it fades (`gamma` in the published code).

    Returns:
        One loss per sequence, [B].

    Raises:
        ExpungeError: `beta` is not above 0, or `delta` is not a sensible number of nats.

    Source: Fan et al. 2024, arXiv:2410.07163; code Unlearn-Simple.
    Defaults: beta 4.5, delta 0, gamma 0.125, alpha 1, retain `nll`, 10 epochs.
    Departures: n counts predicted tokens; the published code counts labels before the shift, which differs only where
    position 0 is labeled.
    """
    require_positive("simnpo: beta", beta, hint="Papers use 2.5 to 5.5.")
    require_between("simnpo: delta", delta, -WIDEST_DELTA, WIDEST_DELTA, hint="Papers use 0 to 2 nats a token.")
    return -(2 / beta) * F.logsigmoid(beta * (-wide(logprobs) / counts - delta))
