"""Bootstrapped ascent: push down the true token and what the model itself believes in."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from expunge.core.checks import ExpungeError, require_between
from expunge.core.logprobs import counts, kept_logprobs, masked_sum
from expunge.objectives.method import Method

METHOD = Method(reduction="sequence", tokenwise=True)


def bst(
    logits: Float[Tensor, "b c v"],
    targets: Int[Tensor, "b c"],
    completion_mask: Bool[Tensor, "b c"],
    *,
    belief_weight: float = 0.5,
    top: int = 20,
) -> Float[Tensor, " b"]:
    """Ascent on the true token and the model's own likeliest ones, so that probability does not move to synonyms.

        q_t     = belief_weight * sg[ softmax of the `top` largest logits_t ] + (1 - belief_weight) * onehot(y_t)
        value_i = (1 / n_i) * sum_t sum_v q_t,v * log p_t,v

    `sg` stops the gradient. Never positive and unbounded below; `belief_weight=0` is the mean log-probability of
    each sequence's tokens.

    Args:
        logits: scores that predict each completion token, [B, C, V].
        targets: the completion tokens y, [B, C]; a valid id at every position.
        completion_mask: true at completion positions, [B, C].
        belief_weight: share of the model's own beliefs, from 0 to 1 (`lambda` in the published code).
        top: how many of the most probable tokens make up those beliefs, from 1 to V.

    Returns:
        One loss per sequence, [B].

    Raises:
        ExpungeError: a hyperparameter is outside its range.

    Source: a fork of open-unlearning, after BS-T of Li et al. 2025, arXiv:2510.19422; not checked against the paper.
    Defaults: belief_weight 0.5, top 20, gamma 1, alpha 1, retain `nll`, 10 epochs.
    Departures: none known.
    """
    require_between("bst: belief_weight", belief_weight, 0, 1, hint="Usual: 0.5.")
    if not 1 <= top <= logits.shape[-1]:
        raise ExpungeError(
            f"bst: top must be between 1 and the vocabulary size {logits.shape[-1]}; got {top!r}. Usual: 20."
        )
    log_p = kept_logprobs(logits, completion_mask)
    best = log_p.topk(top, dim=-1)
    beliefs = (best.values.detach().softmax(-1) * best.values).sum(-1)
    true = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    terms = belief_weight * beliefs + (1 - belief_weight) * true
    return masked_sum(terms, completion_mask) / counts(completion_mask, terms)
