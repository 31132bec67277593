"""Attributions against numbers worked by hand."""

import math

import pytest
import torch

from expunge.core.checks import ExpungeError
from expunge.localize.attributions.activation import activation
from expunge.localize.attributions.fisher import fisher
from expunge.localize.attributions.gradient import gradient
from expunge.localize.attributions.magnitude import magnitude
from expunge.localize.attributions.memflex import CANDIDATES, memflex
from expunge.localize.attributions.random import random
from expunge.localize.attributions.wagle import DOMINATED, wagle
from expunge.localize.attributions.wanda import wanda


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


ONE = f64([3.0, -4.0])


@pytest.mark.parametrize("score", [magnitude, gradient])
def test_sizes(score):
    assert score(f64([-4.0]), "weight").tolist() == [4]
    assert score(ONE, "value_vector").tolist() == score(ONE, "neuron").tolist() == [5]  # sqrt(9 + 16)
    assert score(ONE, "matrix").tolist() == [3.5]  # (3 + 4) / 2


def test_fisher():
    assert fisher(f64([9.0, 16.0]), "value_vector").tolist() == [25]
    assert fisher(f64([9.0, 16.0]), "matrix").tolist() == [12.5]


def test_activation():
    # ||(3, -4)|| = 5
    assert activation(ONE, f64(0.5)).tolist() == [2.5]
    assert activation(ONE, f64(0.5), norm=False).tolist() == [0.5]


def test_wanda():
    # |-4| * sqrt(0.25)
    assert wanda(f64([-4.0]), f64(0.25)).tolist() == [2]


def test_wagle():
    theta, forget, retain = f64([1.0, 2.0]), f64([3.0, -1.0]), f64([0.5, 0.25])
    # gamma 1/4: g_r / gamma = (2, 1), theta - that = (-1, 1), times g_f: S = (-3, -1)
    assert wagle(theta, forget, retain, "value_vector", gamma=0.25)[0].tolist() == [4]
    # gamma 1/2: (1, 0.5), theta - that = (0, 1.5), S = (0, -1.5)
    scores, notes = wagle(theta, forget, retain, "value_vector", gamma=0.5)
    assert scores.tolist() == [1.5]
    assert notes[DOMINATED].tolist() == [False]  # ||(1, 0.5)|| < ||(1, 2)||
    assert wagle(theta, forget, retain, "value_vector", gamma=0.1)[1][DOMINATED].tolist() == [True]
    # signs that differ: S = (3, -1) at theta (2, 2), g_r (1, 1), gamma 1
    args = (f64([2.0, 2.0]), forget, f64([1.0, 1.0]))
    assert wagle(*args, "value_vector", gamma=1.0)[0].tolist() == [2]
    assert wagle(*args, "value_vector", gamma=1.0, variant="sum_abs")[0].tolist() == [4]
    assert wagle(*args, "matrix", gamma=1.0)[0].tolist() == [2]  # (3 + 1) / 2
    assert wagle(*(a[:, :1] for a in args), "weight", gamma=1.0)[0].tolist() == [3]


def test_wagle_ignores_the_sign_of_the_forget_gradient_and_not_that_of_the_retain_gradient():
    drawn = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta, forget, retain = drawn
    for unit in ("value_vector", "matrix"):
        plain = wagle(theta, forget, retain, unit, gamma=0.5)[0]
        assert torch.equal(wagle(theta, -forget, retain, unit, gamma=0.5)[0], plain)
        assert not torch.allclose(wagle(theta, forget, -retain, unit, gamma=0.5)[0], plain)


def test_the_gamma_of_sums_is_that_of_means_times_the_examples():
    theta, forget, retain = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    n_forget, n_retain, gamma = 7, 5, 1e-2
    means = wagle(theta, forget, retain, "value_vector", gamma=gamma / n_retain)[0]
    sums = wagle(theta, n_forget * forget, n_retain * retain, "value_vector", gamma=gamma)[0]
    torch.testing.assert_close(sums, n_forget * means)


def test_memflex():
    # cosines: (3,4)(4,3)/25 = 0.96; (3,4)(4,-3) = 0; the retain gradient is 0; 0.8 with (1, 0) and (4, 3)
    forget = f64([3.0, 4.0], [6.0, 8.0], [3.0, 4.0], [1.0, 0.0])
    retain = f64([4.0, 3.0], [4.0, -3.0], [0.0, 0.0], [4.0, 3.0])
    scores, notes = memflex(forget, retain, "value_vector")
    assert notes[CANDIDATES].tolist() == [False, True, False, True]
    torch.testing.assert_close(scores, f64(-1.96, 10.0, -2.0, 1.0))
    # ranked: candidates by strength, then the others by rising cosine
    assert scores.argsort(descending=True).tolist() == [1, 3, 0, 2]
    scores, notes = memflex(forget, retain, "value_vector", mu=0.97)
    assert notes[CANDIDATES].tolist() == [True, True, False, True] and scores[0] == 5
    # mean |g_f| instead of the norm, for the reference's threshold
    torch.testing.assert_close(memflex(forget, retain, "matrix", variant="threshold")[0], f64(-1.96, 7.0, -2.0, 0.5))


def test_memflex_of_single_weights_goes_by_signs():
    forget, retain = f64([1e-30], [-2.0], [3.0], [0.0]), f64([-7.0], [-1e-30], [-0.1], [1.0])
    scores, notes = memflex(forget, retain, "weight")
    assert notes[CANDIDATES].tolist() == [True, False, True, False]
    assert scores.tolist() == [1e-30, -2.0, 3.0, -2.0]  # those of equal sign tie exactly, at -(1 + 1)


def test_random():
    weights = torch.zeros(2000, 3, dtype=torch.float64)
    drawn = random(weights, "g", 0)
    assert torch.equal(drawn, random(weights, "g", 0))
    assert not torch.equal(drawn, random(weights, "g", 1)) and not torch.equal(drawn, random(weights, "h", 0))
    # uniform: mean 1/2 with deviation 1 / sqrt(12 n) = 0.0065
    assert 0 <= drawn.min() and drawn.max() < 1 and abs(drawn.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wagle(ONE, ONE, ONE, "weight", gamma=0.0), "gamma must be above 0"),
        (lambda: wagle(ONE, ONE, ONE, "weight", gamma=math.nan), "gamma must be above 0"),
        (lambda: wagle(ONE, ONE, ONE, "weight", variant="max"), "variant must be 'abs_sum' or 'sum_abs'"),
        (lambda: memflex(ONE, ONE, "matrix", mu=1.5), "mu must be between -1 and 1"),
        (lambda: memflex(ONE, ONE, "matrix", variant="max"), "variant must be 'rank' or 'threshold'"),
    ],
)
def test_what_is_out_of_range(call, message):
    with pytest.raises(ExpungeError, match=message):
        call()
