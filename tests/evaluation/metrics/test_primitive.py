"""Probability, perplexity, exact memorization and extraction strength, by hand."""

import math

import numpy as np
import pytest

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics.exact_memorization import exact_memorization
from expunge.evaluation.metrics.extraction_strength import extraction_strength, strength
from expunge.evaluation.metrics.perplexity import perplexity
from expunge.evaluation.metrics.probability import probability
from expunge.evaluation.metrics.probability_normalized import probability_normalized
from made_records import certain, rows, view
from made_records import records as records_of


def log(*ps):
    return [math.log(p) for p in ps]


def test_probability_is_the_geometric_mean_over_all_tokens_the_end_token_too():
    # sqrt(.5 * .02) = .1; cube root of .9 * .3 * .1 = .3 (end token .1 counts); mean .2
    measure = probability(view([log(0.5, 0.02), log(0.9, 0.3, 0.1)], ended=[False, True]))
    assert measure.value == pytest.approx(0.2)
    assert measure.per_example == pytest.approx((0.1, 0.3))
    assert measure.n == 2 and measure.better == "lower"
    assert measure.interval == pytest.approx((0.1, 0.3))
    assert probability(view([[-1.0]], split="retain")).better == "higher"
    assert probability(view([[-1.0]], split="retain"), better="lower").better == "lower"


def test_probability_normalized_by_hand():
    # .2 / (.2 + .3 + .5) = .2 and .6 / (.6 + .2 + .4) = .5
    correct = view(certain(0.2, 0.6), split="world_facts")
    wrong = view(certain(0.3, 0.5, 0.2, 0.4), split="world_facts", index=[0, 0, 1, 1], number=[0, 1, 0, 1])
    measure = probability_normalized(correct, wrong)
    assert measure.per_example == pytest.approx((0.2, 0.5), rel=1e-7)
    assert measure.value == pytest.approx(0.35, rel=1e-7)


def test_probability_normalized_from_sums_and_without_the_end_token():
    # one token and the end token (.5 .2) against two and the end token (.5 .8 .25): products .1 and .1; without the end
    # token means .5 and sqrt(.4)
    correct = view([log(0.5, 0.2)], split="world_facts", ended=True)
    wrong = view([log(0.5, 0.8, 0.25)], split="world_facts", ended=True)
    summed = probability_normalized(correct, wrong, form="summed")
    assert summed.value == pytest.approx(0.5) and summed.better == "higher" and "product" in summed.definition
    bare = probability_normalized(correct, wrong, form="no_end")
    assert bare.value == pytest.approx(0.5 / (0.5 + math.sqrt(0.4))) and "end token left out" in bare.definition
    assert probability_normalized(correct, wrong).value == pytest.approx(
        math.sqrt(0.1) / (math.sqrt(0.1) + 0.1 ** (1 / 3))
    )
    with pytest.raises(ExpungeError, match="form must be one of mean, summed, no_end; got 'sum'"):
        probability_normalized(correct, wrong, form="sum")


def test_sums_of_long_answers_do_not_underflow():
    correct, wrong = view([[-40.0] * 50], split="world_facts"), view([[-40.0] * 49 + [-39.0]], split="world_facts")
    assert probability_normalized(correct, wrong, form="summed").value == pytest.approx(1 / (1 + math.e))


def test_probability_normalized_has_chance_beside_it():
    # one wrong answer and three: 1/2 and 1/4
    correct = view(certain(0.2, 0.6), split="world_facts")
    wrong = view(certain(0.3, 0.2, 0.4, 0.1), split="world_facts", index=[0, 1, 1, 1], number=[0, 0, 1, 2])
    for form in ("mean", "summed", "no_end"):
        assert probability_normalized(correct, wrong, form=form).details == {"chance": pytest.approx(0.375)}


def test_no_better_than_chance_is_said():
    alike, right = [0.2] * 8, [0.9] * 8
    wrong = view(certain(*[0.2] * 8), split="world_facts")
    at_chance = probability_normalized(view(certain(*alike), split="world_facts"), wrong)
    assert at_chance.value == pytest.approx(0.5) and "No better than chance" in at_chance.note
    assert "_summed" in at_chance.note and "_no_end" in at_chance.note
    assert not probability_normalized(view(certain(*right), split="world_facts"), wrong).note


def test_wrong_answers_of_other_examples_are_refused():
    with pytest.raises(ExpungeError, match="example 1 lacks 'wrong'"):
        probability_normalized(view(certain(0.2, 0.6)), view(certain(0.3), index=[0]))
    with pytest.raises(ExpungeError, match="example 1 lacks 'correct'"):
        probability_normalized(view(certain(0.2)), view(certain(0.3, 0.3)))
    with pytest.raises(ExpungeError, match="twice in 'correct'"):
        probability_normalized(view(certain(0.2, 0.3), index=[0, 0]), view(certain(0.3), index=[0]))


def test_perplexity_weighs_tokens_not_examples():
    # losses ln 2 over 1 token and ln 8 over 3 tokens: exp((ln 2 + 3 ln 8) / 4) = (2 * 512) ** .25 = 1024 ** .25
    measure = perplexity(view([log(1 / 2), log(1 / 8, 1 / 8, 1 / 8)]))
    assert measure.value == pytest.approx(1024**0.25)
    assert measure.per_example == pytest.approx((2.0, 8.0))
    assert measure.better == "higher" and measure.details["tokens"] == 4
    assert measure.details["loss"] == pytest.approx((math.log(2) + 3 * math.log(8)) / 4)
    assert perplexity(view([[-1.0]], split="retain")).better == "lower"


def test_exact_memorization_leaves_the_end_token_out():
    # two of three answer tokens are hits; the end token, a hit too, does not count
    hits = [[True, False, True, True]]
    assert exact_memorization(view([[-1.0] * 4], hits=hits, ended=True)).value == pytest.approx(2 / 3)
    assert exact_memorization(view([[-1.0] * 4], hits=hits, ended=False)).value == pytest.approx(3 / 4)
    assert exact_memorization(view([[-1.0] * 4], hits=hits), final_token="as_reference").value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("hits", "expected", "as_reference"),
    [
        ("1111", 1.0, 1.0),
        ("0111", 3 / 4, 3 / 4),  # one token must be given
        ("1011", 2 / 4, 2 / 4),
        ("1110", 0.0, 1 / 4),  # even the last is wrong: nothing follows by itself
        ("0000", 0.0, 1 / 4),
        ("1", 1.0, 1.0),
        ("0", 0.0, 1.0),  # as the reference has it, a single wrong token counts as memorized
    ],
)
def test_extraction_strength_by_hand(hits, expected, as_reference):
    as_array = np.array([h == "1" for h in hits])
    assert strength(as_array) == pytest.approx(expected)
    assert strength(as_array, floor="as_reference") == pytest.approx(as_reference)
    # k as defined: the smallest k such that all positions from k on are hits
    n = len(hits)
    k = next((k for k in range(n) if as_array[k:].all()), n)
    assert strength(as_array) == pytest.approx(1 - k / n)


def test_extraction_strength_leaves_the_end_token_out():
    hits = [[False, True, True, False]]
    assert extraction_strength(view([[-1.0] * 4], hits=hits, ended=True)).value == pytest.approx(2 / 3)
    assert extraction_strength(view([[-1.0] * 4], hits=hits)).value == 0
    assert extraction_strength(view([[-1.0] * 4], hits=hits), floor="as_reference").value == pytest.approx(1 / 4)
    assert extraction_strength(view([[-1.0] * 4], hits=hits), final_token="as_reference").value == pytest.approx(2 / 3)


def test_strength_and_exact_memorization_agree_at_the_top_and_in_order():
    rng = np.random.default_rng(0)
    hits = [(rng.random(n) < 0.8).tolist() for n in rng.integers(1, 9, 200)]
    some = view([[-1.0] * len(h) for h in hits], hits=hits)
    exact, extracted = exact_memorization(some).per_example, extraction_strength(some).per_example
    assert all(s <= e + 1e-12 for s, e in zip(extracted, exact, strict=True))
    assert [s == 1 for s in extracted] == [e == 1 for e in exact]
    assert 0 < sum(s == 1 for s in extracted) < 200


def test_a_completion_of_nothing_but_its_end_token_cannot_be_scored():
    records = records_of(rows([[-1.0]], ended=True, index=[7]))
    assert probability(records).value == pytest.approx(math.exp(-1))
    for metric in (exact_memorization, extraction_strength):
        with pytest.raises(ExpungeError, match=r"example 7 of split 'forget' .* no completion token besides its last"):
            metric(records)


def test_a_completion_without_tokens_is_an_error_and_never_a_zero():
    with pytest.raises(ExpungeError, match=r"example 1 of split 'forget' .* no completion token"):
        probability(view([[-1.0], []]))
