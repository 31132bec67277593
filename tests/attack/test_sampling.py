"""The best of k sampled answers."""

from itertools import combinations
from statistics import fmean

import pytest

import zoo
from expunge.attack.attacks.sampling import best_of, sampling
from expunge.core.checks import ExpungeError


def test_the_expected_best_is_the_mean_over_all_choices() -> None:
    values = [0.3, 0.1, 0.9, 0.1, 0.5]
    for k in range(1, 6):
        assert best_of(values, k) == pytest.approx(fmean(max(chosen) for chosen in combinations(values, k)))


def test_answers_are_kept_with_the_best_of_them_and_a_seed_decides() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(n_forget=3)
    (one,) = sampling(model, tokenizer, corpus, k=2, samples=3, seed=1)
    (other,) = sampling(model, tokenizer, corpus, k=2, samples=3, seed=2)
    assert one.name == "sampling.best_of_2" and len(one.texts) == 3 and one.texts != other.texts
    with pytest.raises(ExpungeError, match=r"samples must be at least 4; got 2. Draw at least k answers."):
        sampling(model, tokenizer, corpus, k=4, samples=2)
