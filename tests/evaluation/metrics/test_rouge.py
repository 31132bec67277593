"""ROUGE, by hand and against the package rouge-score; verbatim memorization."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from expunge.core.checks import ExpungeError
from expunge.evaluation.metrics._rouge import rouge_1, rouge_l, words
from expunge.evaluation.metrics.rouge import rouge
from expunge.evaluation.metrics.verbatim_memorization import verbatim_memorization
from made_records import view

TEXTS = st.lists(
    st.sampled_from("the The cat cats sat, on mats a running runs! é3 x-y 12 generously".split()), max_size=12
).map(" ".join)


@given(TEXTS, TEXTS, st.booleans())
def test_equals_the_package_rouge_score(true, said, stemmer):
    expected = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=stemmer).score(true, said)
    for name, ours in (
        ("rouge1", rouge_1(true, said, stemmer=stemmer)),
        ("rougeL", rouge_l(true, said, stemmer=stemmer)),
    ):
        theirs = expected[name]
        assert (ours.precision, ours.recall, ours.fmeasure) == pytest.approx(
            (theirs.precision, theirs.recall, theirs.fmeasure)
        )


def test_by_hand():
    # common subsequence "the cat on mat" ("mats" is stemmed to "mat"): 4 of 6 true words, of 5 said words
    found = rouge_l("The cat sat on the mats.", "the big cat on mat")
    assert (found.recall, found.precision) == pytest.approx((4 / 6, 4 / 5))
    assert found.fmeasure == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5))
    assert rouge_l("The cat sat on the mats.", "the big cat on mat", stemmer=False).recall == pytest.approx(3 / 6)
    # as words: the (once, said once), cat, on, mat = 4; "the the" would count twice
    assert rouge_1("mats on the cat", "cat the on mat").recall == 1
    assert rouge_1("the the a", "the the the").recall == pytest.approx(2 / 3)


def test_same_other_and_no_text():
    assert rouge_l("Basil was born in Kuwait.", "Basil was born in Kuwait.").fmeasure == 1
    assert rouge_l("Basil was born", "nothing else here").recall == 0
    assert rouge_l("Basil was born", "").recall == 0 and rouge_1("", "Basil").recall == 0


def test_words_are_stemmed_only_when_long():
    assert words("Was, running: RUNS 42!") == ("was", "run", "run", "42")
    assert words("Running runs", stemmer=False) == ("running", "runs")


def test_the_measure_is_a_plain_mean():
    some = view([[-1.0]] * 2, completion=["one two three four", "five"], generation=["one two", ""], split="retain")
    measure = rouge(some)  # recalls 1/2 and 0
    assert measure.value == pytest.approx(0.25) and measure.per_example == pytest.approx((0.5, 0))
    assert "ROUGE-L recall" in measure.definition and measure.better == "higher"
    assert rouge(some, of="precision").per_example == pytest.approx((1, 0))
    both = rouge(some, kind="rouge1", of="fmeasure", stemmer=False)
    assert (
        both.per_example == pytest.approx((2 / 3, 0))
        and "ROUGE-1 fmeasure" in both.definition
        and "not stemmed" in both.definition
    )


def test_answers_that_rouge_cannot_see_are_named():
    some = view([[-1.0]] * 2, completion=["?!", "five"], generation=["?!", "five"])
    assert rouge(some).value == 0.5
    assert rouge(some).note.startswith("1 true answers hold no word")


def test_a_missing_generation_is_an_error():
    with pytest.raises(ExpungeError, match="generation for every row"):
        rouge(view([[-1.0]] * 2, generation=["a", None]))


def test_verbatim_memorization_is_f1():
    some = view([[-1.0]], answer="continuation", completion=["one two three"], generation=["one two three four"])
    # recall 1, precision 3/4: F1 = 6/7
    assert verbatim_memorization(some).value == pytest.approx(6 / 7)


def test_an_accent_is_the_same_however_it_is_typed():
    composed, decomposed = "Jos\u00e9 V\u00e1squez", "Jose\u0301 Va\u0301squez"
    assert words(composed) == words(decomposed) == ("jos", "v", "squez")
    assert rouge_l(composed, decomposed).fmeasure == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Она живёт в Москве.", ("она", "живёт", "в", "москве")),
        ("ولد في القاهرة عام 1990", ("ولد", "في", "القاهرة", "عام", "1990")),
        ("नमस्ते दुनिया", ("नमस्ते", "दुनिया")),
        ("東京に住む。Tokyo", ("東", "京", "に", "住", "む", "tokyo")),
        ("\u0e01\u0e34\u0e19\u0e02\u0e49\u0e32\u0e27", ("\u0e01\u0e34", "\u0e19", "\u0e02\u0e49", "\u0e32", "\u0e27")),
        ("서울에 산다", ("서울에", "산다")),
        ("x-y é3", ("x", "y", "3")),
    ],
)
def test_words_of_other_scripts(text, found):
    assert words(text) == found
    assert rouge_l(text, text).fmeasure == 1


def test_half_of_an_answer_in_another_script_counts_half():
    assert rouge_l("東京に住む", "東京の").recall == pytest.approx(2 / 5)
    assert rouge_l("Она живёт в Москве", "Она живёт здесь").recall == pytest.approx(2 / 4)
