import math

import pytest
import torch
from plain import LENGTHS, ONE, drawn, drawn_ids, ids, logits_of, ragged_mask, softmax, values
from torch.testing import assert_close

from expunge.core.checks import ExpungeError
from expunge.objectives.forget.bst import bst


def test_by_hand():
    # p = (1/2, 1/3, 1/6), true token 2. The two likeliest, renormalized: (3/5, 2/5).
    # 1/2 (3/5 ln 1/2 + 2/5 ln 1/3) + 1/2 ln 1/6
    found = bst(logits_of(1 / 2, 1 / 3, 1 / 6), ids(2), ONE, top=2)
    assert_close(found, values((3 / 5 * math.log(1 / 2) + 2 / 5 * math.log(1 / 3) + math.log(1 / 6)) / 2))


def test_against_the_formula():
    vocabulary, top, weight = 7, 3, 0.3
    logits, targets = drawn(len(LENGTHS), max(LENGTHS), vocabulary, seed=0), drawn_ids(vocabulary, seed=1)
    slow = []
    for i, n in enumerate(LENGTHS):
        total = 0.0
        for t in range(n):
            p = softmax(logits[i, t].tolist())
            best = sorted(range(vocabulary), key=lambda v: -p[v])[:top]
            q = [0.0] * vocabulary
            for v in best:
                q[v] += weight * p[v] / sum(p[b] for b in best)
            q[targets[i, t]] += 1 - weight
            total += sum(a * math.log(b) for a, b in zip(q, p, strict=True))
        slow.append(total / n)
    assert_close(bst(logits, targets, ragged_mask(), belief_weight=weight, top=top), values(*slow))


def test_the_beliefs_carry_no_gradient():
    # With q held fixed the gradient is q - p.
    p = torch.tensor([1 / 2, 1 / 3, 1 / 6], dtype=torch.float64)
    logits = p.log()[None, None].requires_grad_()
    bst(logits, ids(2), ONE, top=2).sum().backward()
    assert_close(logits.grad[0, 0], values(0.3, 0.2, 0.5) - p)


def test_without_beliefs_it_is_the_mean_log_probability():
    logits, targets = drawn(len(LENGTHS), max(LENGTHS), 5, seed=0), drawn_ids(5, seed=1)
    tokens = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0] * ragged_mask()
    assert_close(bst(logits, targets, ragged_mask(), belief_weight=0.0, top=5), tokens.sum(1) / values(*LENGTHS))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"belief_weight": 1.5, "top": 2}, "bst: belief_weight must be between 0 and 1; got 1.5. Usual: 0.5"),
        ({"top": 0}, "bst: top must be between 1 and the vocabulary size 2; got 0. Usual: 20"),
        ({"top": 3}, "bst: top must be between 1 and the vocabulary size 2; got 3. Usual: 20"),
    ],
)
def test_refused(given, said: str):
    with pytest.raises(ExpungeError, match=said):
        bst(logits_of(0.5, 0.5), ids(0), ONE, **given)
