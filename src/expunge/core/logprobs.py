"""What losses and metrics share: log-probabilities of tokens and sums over completion positions, in float32 or wider.

B = rows, C = completion positions, V = vocabulary, D = hidden size. Positions outside of a mask may hold anything, even
NaN: `kept` takes it out before the arithmetic and `masked_sum` after it, so neither value nor gradient ever sees it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORED = -100
_FAR_BELOW = -1e4  # exp(-1e4) is 0 in either precision, and its square is finite in float32


def wide(x: Tensor) -> Tensor:
    """At least float32: half precision is raised, float64 stays."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def lowered(logits: Float[Tensor, "b c v"], targets: Int[Tensor, "b c"], by: float) -> Float[Tensor, "b c v"]:
    """Logits with that of each true token lowered, in float32 at least."""
    logits = wide(logits)
    return logits.scatter_add(-1, targets.unsqueeze(-1), torch.full_like(logits[..., :1], -by))


def token_logprobs(logits: Float[Tensor, "*n v"], targets: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Log p(target) at each position: `logit_target - logsumexp(logits)`, without keeping a full log-softmax.

    Args:
        logits: unnormalized scores, [..., V].
        targets: token ids in [0, V), [...]. Positions that don't count still need a valid id.

    Returns:
        Natural-log probabilities, [...], float32 (float64 for float64 logits).
    """
    logits = wide(logits)
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def logprob_moments(logits: Float[Tensor, "*n v"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Mean and variance of log p(v) over the vocabulary, v drawn from p: minus the entropy, and the spread of log p.

    A token of probability 0 adds nothing to either, even where its logit is minus infinity.

    Args:
        logits: unnormalized scores, [..., V].

    Returns:
        Mean (in nats, at most 0) and variance (in nats squared, 0 or above), [...], float32 (float64 for float64).
    """
    logprobs = wide(logits).log_softmax(-1)
    probs = logprobs.exp()
    finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)
    mean = (probs * finite).sum(-1)
    return mean, (probs * (finite - mean.unsqueeze(-1)).clamp(min=_FAR_BELOW).square()).sum(-1)


def kept(values: Float[Tensor, "b c *more"], mask: Bool[Tensor, "b c"]) -> Float[Tensor, "b c *more"]:
    """`values`, at least float32, where `mask` holds and 0 elsewhere; what stood there gets a gradient of exactly 0."""
    values = wide(values)
    return torch.where(mask.view(*mask.shape, *[1] * (values.dim() - 2)), values, torch.zeros_like(values))


def kept_logprobs(logits: Float[Tensor, "b c v"], mask: Bool[Tensor, "b c"]) -> Float[Tensor, "b c v"]:
    """Log-probabilities over the vocabulary where `mask` holds, of a uniform distribution elsewhere.

    A token that the model rules out, with a logit of minus infinity, gets the lowest number there is: probability 0
    times that is 0 and no NaN. Nothing finite is changed.
    """
    logprobs = kept(logits, mask).log_softmax(-1)
    return logprobs.clamp(min=torch.finfo(logprobs.dtype).min)


def masked_sum(values: Float[Tensor, "b c"], mask: Bool[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """Sum of each row over the positions where `mask` holds; what stands elsewhere, even NaN or infinity, is inert."""
    return torch.where(mask, values, torch.zeros_like(values)).sum(-1)


def counts(mask: Bool[Tensor, "b c"], like: Tensor) -> Float[Tensor, " b"]:
    """How many positions count in each row, in the dtype of `like`."""
    return mask.sum(-1).to(like.dtype)


def mean_squared_distance(
    states: Float[Tensor, "b c d"], others: Float[Tensor, "b c d"], mask: Bool[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Squared distance of two sets of vectors in each row: mean over their D entries, then over the masked positions.

    Args:
        states: vectors, [B, C, D].
        others: what they are compared with, [B, C, D].
        mask: positions that count, [B, C]; at least one in each row.

    Returns:
        One mean a row, [B], float32 or wider, 0 or above.
    """
    squared = (kept(states, mask) - kept(others, mask)).square().mean(-1)
    return squared.sum(-1) / counts(mask, squared)
