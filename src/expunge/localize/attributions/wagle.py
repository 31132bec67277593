"""Weight attribution for unlearning: the effect of removing a weight, seen from both sets."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.checks import ExpungeError, require_positive
from expunge.localize.attribution import Attribution

DOMINATED = "units whose retain term g_r / gamma exceeds their weights"

ATTRIBUTION = Attribution(
    readings={
        DOMINATED: (
            0.99,
            "usual at published values of gamma; the score is close to |g_r * g_f| / gamma, so the mask hardly depends "
            "on gamma or on the weights. With a larger gamma the weights count.",
        )
    }
)


def wagle(
    weights: Float[Tensor, "u k"],
    forget_gradients: Float[Tensor, "u k"],
    retain_gradients: Float[Tensor, "u k"],
    unit: str,
    *,
    gamma: float = 1e-6,
    variant: str = "abs_sum",
) -> tuple[Float[Tensor, " u"], dict[str, Bool[Tensor, " u"]]]:
    """Effect on the forget loss of removing a unit, after the retain loss has pulled the model back.

        S = (theta - g_r / gamma) * g_f
        weight:                |S|
        value_vector, neuron:  | sum of S over the unit's weights |     variant "sum_abs":  sum of |S|
        matrix:                mean of |S|

    S is a first-order effect, and effects of removing several weights add, hence the sum inside the bars. The sign of
    g_f does not matter, that of g_r does: it is the gradient of a loss to be minimized.

    Args:
        weights: theta, [U, K].
        forget_gradients: g_f, gradient of the forget objective, [U, K].
        retain_gradients: g_r, gradient of the retain objective, [U, K].
        unit: what a unit is.
        gamma: above 0; stands for the diagonal of the retain loss's Hessian. It is relative to mean gradients: a
            published gamma for gradients summed over N_r examples is gamma / N_r here, or `gradient="sum"` with it as
            it is.
        variant: `abs_sum` or `sum_abs`, for value vectors and neurons.

    Returns:
        Scores, [U], 0 or above, and which units the retain term dominates, [U].

    Raises:
        ExpungeError: `gamma` is not above 0, or an unknown `variant`.

    Source: Jia et al. 2024 (WAGLE), arXiv:2410.17509, eq. 9, where gamma is 1e-6 (TOFU, WMDP), 1e4 or 1e6. The forms
    for larger units are ours; `wagle_down` of Lee et al. 2025, arXiv:2505.16252, is `unit="value_vector"`.
    Departures: the published code stores the live gradient buffer without a copy; gradients are added up in buffers of
    their own here. It ranks every parameter, embeddings and norms included: `modules="all"`.
    """
    require_positive("wagle: gamma", gamma, hint="WAGLE uses 1e-6 to 1e6, on summed gradients.")
    if variant not in ("abs_sum", "sum_abs"):
        raise ExpungeError(f"wagle: variant must be 'abs_sum' or 'sum_abs'; got {variant!r}.")
    pull = retain_gradients / gamma
    effect = (weights - pull) * forget_gradients
    if unit == "matrix":
        scores = effect.abs().mean(1)
    else:
        scores = effect.sum(1).abs() if variant == "abs_sum" else effect.abs().sum(1)
    dominated = torch.linalg.vector_norm(pull, dim=1) > torch.linalg.vector_norm(weights, dim=1)
    return scores, {DOMINATED: dominated}
