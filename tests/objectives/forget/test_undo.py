import math

import pytest
import torch
from plain import LENGTHS, ONE, drawn, drawn_ids, ids, logits_of, ragged_mask, softmax, values
from torch.testing import assert_close

from expunge.core.checks import ExpungeError
from expunge.objectives.forget.undial import undial
from expunge.objectives.forget.undo import undo
from expunge.objectives.retain.kl import kl


def test_by_hand():
    # Reference (1/2, 1/2), the true token's logit lowered by ln 3: odds 1 to 3, q = (1/4, 3/4).
    # To p = (3/4, 1/4): 1/4 ln 1/3 + 3/4 ln 3 = ln(3) / 2
    found, counts = undo(logits_of(3 / 4, 1 / 4), logits_of(1 / 2, 1 / 2), ids(0), ONE, beta=math.log(3))
    assert_close(found, values(math.log(3) / 2))
    assert_close(counts, values(1))


def test_against_the_formula():
    vocabulary = 5
    now, before = (drawn(len(LENGTHS), max(LENGTHS), vocabulary, seed=s) for s in (0, 1))
    targets = drawn_ids(vocabulary, seed=2)
    slow = []
    for i, n in enumerate(LENGTHS):
        total = 0.0
        for t in range(n):
            lowered = before[i, t].tolist()
            lowered[targets[i, t]] -= 30
            p, q = softmax(now[i, t].tolist()), softmax(lowered)
            total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        slow.append(total)
    found, counts = undo(now, before, targets, ragged_mask())
    assert_close(found, values(*slow))
    assert_close(counts, values(*LENGTHS))


def test_its_gradient_is_that_of_undial():
    before, targets = drawn(len(LENGTHS), max(LENGTHS), 5, seed=1), drawn_ids(5, seed=2)
    slopes = []
    for loss in (undo, undial):
        now = drawn(len(LENGTHS), max(LENGTHS), 5, seed=0).requires_grad_()
        slopes += torch.autograd.grad(loss(now, before, targets, ragged_mask(), beta=10.0)[0].sum(), now)
    assert_close(*slopes)


def test_beta_0_imitates_the_start_model():
    now, before = (drawn(len(LENGTHS), max(LENGTHS), 5, seed=s) for s in (0, 1))
    found, _ = undo(now, before, drawn_ids(5, seed=2), ragged_mask(), beta=0.0)
    assert_close(found, kl(now, before, ragged_mask())[0])


@pytest.mark.parametrize("beta", [-1.0, math.nan])
def test_refused(beta: float):
    with pytest.raises(ExpungeError, match=f"undo: beta must be at least 0; got {beta}. 0 imitates the start model"):
        undo(logits_of(0.5, 0.5), logits_of(0.5, 0.5), ids(0), ONE, beta=beta)
