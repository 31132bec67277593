import math

import pytest
from plain import drawn, values
from torch.testing import assert_close

from expunge.core.checks import ExpungeError
from expunge.objectives.forget.simnpo import METHOD, simnpo


def test_by_hand():
    # Two tokens of probability 1/3: mean NLL ln 3, sigmoid(ln 3) = 3/4, beta 1: 2 ln(4/3)
    assert_close(simnpo(values(-2 * math.log(3)), values(2), beta=1.0), values(2 * math.log(4 / 3)))
    # delta at the mean NLL: sigmoid(0) = 1/2, (2 / 4.5) ln 2
    found = simnpo(values(-2 * math.log(3)), values(2), delta=math.log(3))
    assert_close(found, values(2 / 4.5 * math.log(2)))


def test_against_the_formula():
    logprobs, n = drawn(6, seed=0) - 8, values(1, 2, 3, 4, 5, 6)
    for beta, delta in ((4.5, 0.0), (2.5, 0.5), (1.0, -1.0)):
        slow = [
            2 / beta * math.log(1 + math.exp(-beta * (-p / k - delta)))
            for p, k in zip(logprobs.tolist(), n.tolist(), strict=True)
        ]
        assert_close(simnpo(logprobs, n, beta=beta, delta=delta), values(*slow))


def test_length_does_not_matter_at_equal_token_probability():
    found = simnpo(values(-2, -20), values(1, 10))
    assert_close(found[0], found[1])


def test_its_weight():
    assert METHOD.gamma == 0.125


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_refused(beta: float):
    with pytest.raises(ExpungeError, match=f"simnpo: beta must be above 0; got {beta}. Papers use 2.5 to 5.5"):
        simnpo(values(0), values(1), beta=beta)


@pytest.mark.parametrize("delta", [math.inf, math.nan])
def test_delta_refused(delta: float):
    with pytest.raises(ExpungeError, match=f"simnpo: delta must be between .*; got {delta}. Papers use 0 to 2"):
        simnpo(values(0), values(1), delta=delta)
