import math

import pytest
import torch
from torch.testing import assert_close

from expunge.core.logprobs import counts, kept, logprob_moments, masked_sum, mean_squared_distance, token_logprobs, wide

MASK = torch.tensor([[True, True, False], [True, False, False]])
LOUD = [1e4, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_wide(given: torch.dtype, computed: torch.dtype):
    assert wide(torch.ones(2, dtype=given)).dtype == computed


def test_token_logprobs_by_hand():
    # e^0 + e^(ln 3) = 4: log p = -ln 4 and ln 3 - ln 4
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)]]])
    expected = torch.tensor([[-math.log(4), math.log(3 / 4)]])
    assert_close(token_logprobs(logits, torch.tensor([[0, 1]])), expected)


def test_token_logprobs_against_a_full_log_softmax():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[0, 6, 3], [2, 2, 5]])
    full = logits.log_softmax(-1)
    slow = torch.stack([torch.stack([full[i, t, targets[i, t]] for t in range(3)]) for i in range(2)])
    assert_close(token_logprobs(logits, targets), slow)


def test_token_logprobs_of_half_precision_are_computed_in_float32():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([0, 3, 8, 5])
    assert_close(token_logprobs(logits, targets), token_logprobs(logits.float(), targets))


def test_token_logprobs_survive_huge_logits():
    logits = torch.tensor([[1e4, 0.0]], requires_grad=True)
    found = token_logprobs(logits.expand(2, 2), torch.tensor([0, 1]))
    assert_close(found, torch.tensor([0.0, -1e4]))
    found.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("fill", LOUD)
def test_kept_lets_nothing_through(fill: float):
    for more in ((), (4,)):
        values = torch.where(MASK.view(2, 3, *[1] * len(more)), 2.0, fill).expand(2, 3, *more).clone().requires_grad_()
        found = kept(values, MASK)
        assert_close(found.detach(), torch.where(MASK.view(2, 3, *[1] * len(more)), 2.0, 0.0).expand(2, 3, *more))
        found.square().sum().backward()
        assert_close(values.grad, 2 * found.detach())


def test_kept_widens():
    assert kept(torch.ones(2, 3, dtype=torch.bfloat16), MASK).dtype == torch.float32


@pytest.mark.parametrize("fill", LOUD)
def test_masked_sum(fill: float):
    values = torch.tensor([[1.0, 2.0, fill], [4.0, fill, fill]], requires_grad=True)
    found = masked_sum(values, MASK)
    assert_close(found, torch.tensor([3.0, 4.0]))
    found.sum().backward()
    assert_close(values.grad, MASK.float())


def test_counts():
    found = counts(MASK, torch.zeros(1, dtype=torch.float64))
    assert_close(found, torch.tensor([2.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("fill", LOUD)
def test_mean_squared_distance_by_hand(fill: float):
    # Row 0: (1, 2) against (1, 0), mean of 0 and 4; (0, 0) against (3, 1), mean of 9 and 1; (2 + 5) / 2.
    # Row 1: (2, 2) against (0, 0): 4
    out = [fill] * 2
    ours = torch.tensor([[[1.0, 2.0], [0.0, 0.0], out], [[2.0, 2.0], out, out]], requires_grad=True)
    theirs = torch.tensor([[[1.0, 0.0], [3.0, 1.0], out], [[0.0, 0.0], out, out]], requires_grad=True)
    found = mean_squared_distance(ours, theirs, MASK)
    assert_close(found, torch.tensor([3.5, 4.0]))
    found.sum().backward()
    # d/dx of (x - y)^2 / 2 / n = (x - y) / n
    expected = torch.tensor([[[0.0, 1.0], [-1.5, -0.5], [0.0, 0.0]], [[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]]])
    assert_close(ours.grad, expected)
    assert_close(theirs.grad, -expected)


def test_moments_by_hand():
    # p = 1/2, 1/4, 1/4: mean of log p = -(1/2) log 2 - (1/2) log 4 = -1.5 log 2;
    # deviations +.5 log 2, -.5 log 2, -.5 log 2: variance = (log 2)^2 / 4
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.2]], dtype=torch.float64).log()
    mean, variance = logprob_moments(logits)
    assert mean.tolist() == pytest.approx([-1.5 * math.log(2), -math.log(3)])
    assert variance.tolist() == pytest.approx([math.log(2) ** 2 / 4, 0.0], abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tokens_of_probability_zero_add_nothing_to_the_moments(dtype):
    # the second token has p = 0, the others 1/2 each: mean -log 2, variance 0
    mean, variance = logprob_moments(torch.tensor([[1.0, -math.inf, 1.0], [9.0, -30000.0, 9.0]], dtype=dtype))
    assert mean.tolist() == pytest.approx([-math.log(2)] * 2, rel=1e-6)
    assert variance.tolist() == pytest.approx([0.0, 0.0], abs=1e-10)
