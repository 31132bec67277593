"""Unlearn, noise, distill on outputs: a perturbed copy of the start model learns what it may say."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from expunge.core.checks import require_at_least
from expunge.core.logprobs import lowered
from expunge.objectives.method import Method
from expunge.objectives.retain.kl import kl

METHOD = Method(
    reduction="token",
    tokenwise=True,
    retain="kl",
    learning_rate=7e-5,
    perturbs={"perturbation": 0.4, "noise": 0.1},
)


def undo(
    logits: Float[Tensor, "b c v"],
    reference_logits: Float[Tensor, "b c v"],
    targets: Int[Tensor, "b c"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    beta: float = 30.0,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Distillation into a perturbed student: shrink and perturb all weights, then learn again what may be known.

        before the first step:  w <- (1 - perturbation) * w + perturbation * noise * u      for each weight matrix
                                w <- (1 - perturbation) * w                                 for each vector
                                u ~ Uniform(-r, r), r = sqrt(6 / (rows + columns)), drawn once from the run's seed
        on the forget set:      q_t = softmax(reference_logits_t - beta * onehot(y_t))
                                value_i = sum_t sum_v q_t,v * (log q_t,v - log p_t,v)      = KL(q || current)
        on the retain set:      KL(reference || current), the retain loss `kl`

    In nats; never negative, up to rounding. What the weights stored of the forget set is damaged with everything else,
    and only the rest is taught again, so that little is left for relearning to bring back. It is a partial retraining,
    and needs more steps and more retain rows than other methods (`retain_per_forget=10`): go on until the retain loss
    is low. What stands in neither set is lost with the rest, so it is for models of one subject, or for a retain set
    that covers all that the model should know. `gamma=0` leaves the forget set out, which is enough for a model that
    was unlearned before, and does not bend its answers.

    This function computes the value of the forget set. A training run does the rest; outside a run (`compute_loss`)
    nothing is perturbed.

    Args:
        logits: scores that predict each completion token, [B, C, V].
        reference_logits: the same under the frozen start model as it was before it was perturbed, [B, C, V]; carry no
            gradient.
        targets: the completion tokens y, [B, C]; a valid id at every position.
        completion_mask: true at completion positions, [B, C].
        beta: 0 or above; how far the true token's logit is lowered. 0 imitates the start model on the forget set, too:
            for a model that was unlearned before, as published.

    Returns:
        Sums over tokens, [B], and the token counts, [B]; the caller divides the step's sums.

    Raises:
        ExpungeError: `beta` is negative.

    Source: Lee et al. 2025, arXiv:2506.06278.
    Defaults: perturbation 0.4 (their alpha), noise 0.1 (their beta), beta 30, gamma 1, alpha 1, retain `kl`, 10 epochs,
    learning rate 7e-5, which at 7 million parameters becomes the 2e-3 that was good there.
    Departures: they unlearn first and distill the unlearned model, on both sets: `model=<unlearned run> beta=0`. Here
    one run does both, with the target of `undial` in place of an unlearned model's outputs. Supervised positions only.
    An adapter leaves the weights as they are, so that the method does not go with one.
    """
    require_at_least("undo: beta", beta, 0, hint="0 imitates the start model; 30 leaves nothing of the true token.")
    return kl(logits, lowered(reference_logits, targets, beta), completion_mask)
