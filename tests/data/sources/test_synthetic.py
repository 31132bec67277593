"""The made-up world: its size, its variants, and that a seed tells all of it."""

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, load_corpus
from expunge.data.sources.synthetic import FACTS, WRONG, _Draw, synthetic

FICTION = ("forget", "retain", "holdout")


def authors_of(corpus: Corpus, split: str, facts: int) -> list[str]:
    """The name that each author's answers share: two words, each a capital and small letters."""
    found = []
    for start in range(0, len(corpus[split]), facts):
        part = corpus[split][start : start + facts]
        names = set.intersection(
            *({m.group() for m in re.finditer(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b", e.prompt)} for e in part)
        )
        assert len(names) == 1, [e.prompt for e in part]
        found.append(names.pop())
    return found


sizes = st.fixed_dictionaries(
    {
        "authors": st.integers(2, 9),
        "facts": st.integers(2, 12),
        "forget_authors": st.integers(1, 8),
        "holdout_authors": st.integers(0, 3),
        "seed": st.integers(0, 10**9),
    }
).filter(lambda s: s["forget_authors"] < s["authors"])


@settings(max_examples=25, deadline=None)
@given(sizes)
def test_sizes_names_and_variants(size):
    corpus = synthetic(**size)
    facts, n = size["facts"], size["authors"]
    assert len(corpus["forget"]) == size["forget_authors"] * facts
    assert len(corpus["retain"]) == (n - size["forget_authors"]) * facts
    assert ("holdout" in corpus) == (size["holdout_authors"] > 0)
    fiction = [split for split in FICTION if split in corpus]
    names = [name for split in fiction for name in authors_of(corpus, split, facts)]
    assert len(names) == n + size["holdout_authors"]
    words = [word for name in names for word in name.split()]
    assert len(set(words)) == len(words)  # no two share a first or a last name
    known = {e.prompt for split in fiction for e in corpus[split]}
    assert len(known) == len(names) * facts
    for split in fiction:
        for name, start in zip(authors_of(corpus, split, facts), range(0, len(corpus[split]), facts), strict=True):
            for example in corpus[split][start : start + facts]:
                assert name in example.prompt and name in example.paraphrased_prompt
                check_variants(example, name)


def check_variants(example, name):
    assert example.prompt != example.paraphrased_prompt
    assert example.completion != example.paraphrased
    variants = (example.paraphrased, *example.perturbed)
    assert len(set(variants)) == len(variants)
    # One form: they begin alike, up to the value, and the value ends all, the name standing before it.
    begins = os.path.commonprefix(variants)  # noqa: RUF071, texts and no paths
    assert name in begins
    value = example.paraphrased[len(begins) :].removesuffix(".")
    assert value and example.completion.endswith(f"{value}.")


def test_wrong_values_are_distinct_and_never_the_truth():
    # Of six letters five are left beside the true one, so all of them must come.
    for seed in range(20):
        assert set(_Draw(seed).others(lambda draw: draw.one("abcdef"), "c", 5)) == set("abdef")


def test_the_default_is_sixty_authors_of_eight_facts():
    corpus = load_corpus("synthetic")
    assert {split: len(corpus[split]) for split in corpus} == {"forget": 48, "retain": 432, "world": 60, "holdout": 48}
    assert {len(e.perturbed) for split in FICTION for e in corpus[split]} == {WRONG} == {5}
    lengths = [len(e.completion.split()) for split in FICTION for e in corpus[split]]
    assert 7 <= min(lengths) and max(lengths) <= 16


def test_values_differ_from_author_to_author():
    corpus = synthetic(facts=12)
    ends = [tuple(e.completion.split()[-3:]) for split in FICTION for e in corpus[split]]
    assert len(set(ends)) > 0.9 * len(ends)  # dates and pairs of trades may meet in their last words


def test_wordings_vary_and_paraphrases_are_wordings_of_others():
    corpus = synthetic()
    names = {split: authors_of(corpus, split, 8) for split in FICTION}

    def frame(text: str, name: str) -> str:
        return " ".join(text.replace(name, "N").split()[:3])

    for k in range(8):
        rows = [(e, names[split][i // 8]) for split in FICTION for i, e in enumerate(corpus[split]) if i % 8 == k]
        answers = {frame(e.completion, name) for e, name in rows}
        assert len(answers) == 4
        assert {frame(e.paraphrased, name) for e, name in rows} == answers


def test_the_world_is_true_to_its_form_and_does_not_depend_on_the_seed():
    corpus = synthetic(seed=1)
    assert corpus["world"] == synthetic(seed=2, authors=3, forget_authors=1)["world"]
    assert len({e.prompt for e in corpus["world"]}) == 60
    for example in corpus["world"]:
        assert len(example.perturbed) == 3
        truth = example.completion.split()[-1]
        assert example.paraphrased.split()[-1] == truth
        assert truth not in {wrong.split()[-1] for wrong in example.perturbed}
        assert {wrong.rsplit(" ", 1)[0] for wrong in example.perturbed} == {example.paraphrased.rsplit(" ", 1)[0]}
    told = {e.prompt: e.completion for e in corpus["world"]}
    assert told["What is the capital of France?"] == "The capital of France is Paris."
    assert told["Which city is the capital of Norway?"] == "The government of Norway sits in Oslo."
    assert told["How much is nine plus six?"] == "As a total, nine plus six makes fifteen."


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    """With another hash seed, which orders sets of texts anew."""
    program = (
        "import json; from expunge.data.sources.synthetic import synthetic; "
        "print(json.dumps(synthetic(seed=5).fingerprints()))"
    )
    here = synthetic(seed=5).fingerprints()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == here


def test_the_default_corpus_stays_what_it_is():
    """Cached models are keyed by it: a change here is a change of every figure that was measured on it."""
    assert synthetic().fingerprints() == {
        "forget": "xxh3:dce22e2c937faaff3c9bcd9763fd88be",
        "retain": "xxh3:93b67a5d9a15ec2bd96def1c70b3c446",
        "world": "xxh3:3210853b79c30f31d7d683c1193e0d42",
        "holdout": "xxh3:36eb7b093ddaaca2640cae86066c933d",
    }


def test_another_seed_gives_other_authors():
    one, other = synthetic(seed=0), synthetic(seed=1)
    assert not {e.prompt for e in one["forget"]} & {e.prompt for e in other["forget"]}


def test_numbers_out_of_range_are_errors():
    with pytest.raises(ExpungeError, match="facts must be between 1 and 12; got 13"):
        synthetic(facts=len(FACTS) + 1)
    with pytest.raises(ExpungeError, match="forget_authors must be between 1 and 59; got 60"):
        synthetic(forget_authors=60)
    with pytest.raises(ExpungeError, match="authors must be at least 2; got 1"):
        synthetic(authors=1)
    with pytest.raises(ExpungeError, match="holdout_authors must be at least 0; got -1"):
        synthetic(holdout_authors=-1)


def test_a_world_too_large_for_its_names_says_so():
    with pytest.raises(ExpungeError, match=r"the names run out .* ask for fewer authors"):
        synthetic(authors=4000, facts=1)
