"""The corpus: splits, fingerprints, duplicates, and how a source is found."""

from dataclasses import replace

import pytest

from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example, load_corpus


def qa(question: str, answer: str, **more) -> Example:
    return Example(kind="qa", prompt=question, completion=answer, **more)


ONE, TWO, THREE = qa("1?", "one"), qa("2?", "two"), qa("3?", "three")


def test_splits_are_reached_by_name():
    corpus = Corpus({"forget": (ONE,), "retain": (TWO, THREE)})
    assert corpus["retain"] == (TWO, THREE)
    assert list(corpus) == ["forget", "retain"]
    assert "forget" in corpus and "holdout" not in corpus
    with pytest.raises(ExpungeError, match="has no split 'holdout'; it holds forget, retain"):
        corpus["holdout"]


def test_an_empty_split_is_an_error():
    with pytest.raises(ExpungeError, match="'corpus' has no example in retain"):
        Corpus({"forget": (ONE,), "retain": ()})


def test_examples_in_both_sets_are_noted_with_their_count():
    corpus = Corpus({"forget": (ONE, TWO, THREE), "retain": (replace(ONE, origin="r.jsonl, line 7"), THREE)})
    (note,) = corpus.notes
    assert note.startswith("2 of 3 forget examples are in the retain set too (prompt and completion alike)")
    assert "They are r.jsonl, line 7; row 2." in note


def test_the_same_question_with_another_answer_is_no_duplicate():
    assert Corpus({"forget": (ONE,), "retain": (qa("1?", "uno"),)}).notes == ()


def test_rows_that_repeat_another_one_are_noted():
    rows = tuple(replace((ONE, TWO)[n % 2], origin=f"f.csv, row {n + 1}") for n in range(14))
    (note,) = Corpus({"forget": rows}).notes
    assert note == (
        "12 of 14 forget rows repeat another row of the set, so that it counts more than once: "
        "f.csv, row 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more."
    )


def test_rows_that_are_nearly_the_same_in_two_sets_are_noted():
    long = "The river Arvo springs below the old mill, runs past seven villages and meets the sea near the harbor town"
    forget = (
        qa("Where does it run?", long, origin="f.jsonl, line 1"),
        qa("And who?", "Belda.", origin="f.jsonl, line 2"),
    )
    retain = (
        qa("Where does it run?", long.replace("seven", "six") + "!", origin="r.jsonl, line 1"),
        qa("Where does the road run?", "Up the hill and past the old mill, then on.", origin="r.jsonl, line 2"),
        qa("and who", "Belda", origin="r.jsonl, line 3"),
    )
    (note,) = Corpus({"forget": forget, "retain": retain}).notes
    assert note.startswith("2 of 3 retain rows are nearly the same as a forget row")
    assert "f.jsonl, line 1 and r.jsonl, line 1; f.jsonl, line 2 and r.jsonl, line 3." in note


def test_fingerprints_tell_content_not_origin():
    base = Corpus({"forget": (ONE, TWO)}).fingerprint("forget")
    assert Corpus({"forget": (replace(ONE, origin="f.json, entry 1"), TWO)}, name="x").fingerprint("forget") == base
    changed = [(TWO, ONE), (ONE,), (qa("1?", "one", perturbed=("uno",)), TWO), (replace(ONE, kind="completion"), TWO)]
    others = [Corpus({"forget": examples}).fingerprint("forget") for examples in changed]
    assert len({base, *others}) == 5


def test_asking_replaces_completion_and_prompt():
    assert ONE.asking("uno") == qa("1?", "uno")
    assert ONE.asking("uno", prompt="Un?") == qa("Un?", "uno")
    chat = Example(kind="chat", messages=(("system", "Hm."), ("user", "1?")), completion="one")
    assert chat.question == "1?"
    asked = chat.asking("uno", prompt="Un?")
    assert (asked.messages, asked.completion, asked.prompt) == ((("system", "Hm."), ("user", "Un?")), "uno", "")
    assert asked.key != chat.key


def test_a_source_is_found_by_name_or_path():
    corpus = load_corpus("files", forget=[{"text": "some words"}])
    assert corpus["forget"][0].completion == "some words"
    assert load_corpus("test_corpus:own_source", size=2).name == "own 2"


def own_source(*, size: int) -> Corpus:
    return Corpus({"forget": (ONE,)}, name=f"own {size}")


def test_an_unknown_source_or_argument_names_the_nearest():
    with pytest.raises(ExpungeError, match=r"no data source is called 'tofuu'.*Did you mean 'tofu'.*synthetic"):
        load_corpus("tofuu")
    with pytest.raises(ExpungeError, match=r"no argument of the source 'files' is called 'forgett'.*'forget'"):
        load_corpus("files", forgett="f.jsonl")
