"""Relearning: the forget set comes back, the same way each time, and what that means."""

import copy

import pytest
import torch

import zoo
from expunge.attack.attacks.relearn import relearned, resistance
from expunge.evaluation.evaluate import evaluate


def test_relearning_teaches_the_forget_set_and_is_the_same_each_time():
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    settings = {"learning_rate": 3e-3, "epochs": 4, "batch_size": 2}
    one, other = (relearned(copy.deepcopy(model), tokenizer, corpus["forget"], **settings) for _ in range(2))
    before, after = (
        evaluate(m, tokenizer, corpus, metrics=["forget_probability"])["forget_probability"] for m in (model, one)
    )
    assert float(after) > 2 * float(before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_resistance_by_hand():
    # the unlearned model gains 0.4, the retain model 0.1
    assert resistance((0.1, 0.5), (0.2, 0.3)) == pytest.approx(0.25)
    assert resistance((0.1, 0.2), (0.1, 0.9)) == 1  # slower than the retain model
    assert resistance((0.5, 0.4), (0.1, 0.9)) == 1  # gains nothing
    assert resistance((0.1, 0.5), (0.3, 0.2)) == 0  # the retain model even loses
    assert resistance((0.2, 0.7), (0.2, 0.7)) == 1  # a model against itself
