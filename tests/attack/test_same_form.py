"""Text of the same form: what stays of it, what does not, and that a seed decides."""

import re

import pytest

import expunge
from expunge.attack.same_form import FUNCTION_WORDS, same_form
from expunge.data.corpus import Corpus, Example

FACTS = (
    Example(
        kind="qa",
        prompt="When was Jaime O'Neill-Vasquez's book \"The Ninth Gate\" published?",
        completion="Jaime O'Neill-Vasquez's first book, The Ninth Gate, was published in 1992; it's 212 pages long.",
        paraphrased="In 1992.",
        perturbed=("In 1993.",),
    ),
    Example(kind="qa", prompt="Who is he?", completion="He's a US citizen, B. Ito, who isn't in 7 of IT's 9 Maybes."),
)


def content_words(text: str) -> set[str]:
    """Words and numbers of a text that are no function words, found otherwise than the rule finds them."""
    letters = "".join(c if c.isalnum() else " " for c in re.sub(r"['’](s|t)\b", " ", text))
    parts = re.sub(r"(?<=\d)(?=\D)|(?<=\D)(?=\d)", " ", letters).split()
    return {w.lower() for w in parts if w.lower() not in FUNCTION_WORDS or (w.isupper() and len(w) > 1)}


def test_form_stays_and_content_goes() -> None:
    first, second = same_form(FACTS, FACTS)
    question = re.fullmatch(r"When was (\w+) (\w)'(\w+)-(\w+)'s (\w+) \"The (\w+) (\w+)\" (\w+)\?", first.prompt)
    answer = re.fullmatch(
        r"(\w+) (\w)'(\w+)-(\w+)'s (\w+) (\w+), The (\w+) (\w+), was (\w+) in (\d{4}); it's (\d{3}) (\w+) (\w+)\.",
        first.completion,
    )
    assert question and answer
    # The name and the title of the question are those of the answer, as before.
    assert question.groups()[:4] == answer.groups()[:4] and question.groups()[5:7] == answer.groups()[6:8]
    assert [w[0].isupper() for w in question.groups()] == [True, True, True, True, False, True, True, False]
    assert [len(w) for w in question.groups()] == [5, 1, 5, 7, 4, 5, 4, 9]
    assert second.prompt == "Who is he?"
    assert re.fullmatch(
        r"He's a [A-Z]{2,} [a-z]{7}, \w+\. [A-Z][a-z]{2}, who \w{3}'t in \d+ of [A-Z]{2,}'s \d+ [A-Z][a-z]{5}\.",
        second.completion,
    )
    assert first.kind == "qa" and first.paraphrased is None and first.perturbed == ()


@pytest.fixture(scope="module")
def corpora() -> list[Corpus]:
    return [Corpus({"forget": FACTS}), expunge.load_corpus("synthetic")]


def test_no_content_word_of_a_measured_fact_occurs(corpora: list[Corpus]) -> None:
    for corpus in corpora:
        facts = corpus["forget"]
        known = {w for fact in facts for w in content_words(f"{fact.prompt} {fact.completion}")}
        for seed in range(3):
            made = same_form(facts[:1], facts, seed)
            found = {w for fact in made for w in content_words(f"{fact.prompt} {fact.completion}")}
            assert known and found and not known & found
    assert content_words(FACTS[0].completion) >= {"jaime", "neill", "vasquez", "1992", "212"}


def test_different_words_become_different_words() -> None:
    fact = Example(kind="text", completion=" ".join(f"{n} {a}{b}" for n in range(10) for a in "xyz" for b in "pq"))
    (made,) = same_form([fact], [fact])
    replaced = dict(zip(fact.completion.split(), made.completion.split(), strict=True))
    assert len(set(replaced.values())) == len(replaced) == 16
    assert all(len(made) == 2 for word, made in replaced.items() if word.isdigit())  # every digit is taken


def test_a_seed_decides_and_other_rows_do_not() -> None:
    assert same_form(FACTS, FACTS, 1) == same_form(FACTS, FACTS, 1) != same_form(FACTS, FACTS, 2)


def test_conversations_and_other_languages() -> None:
    chat = Example(kind="chat", messages=(("user", "Is Ana here?"), ("assistant", "Yes.")), completion="¿Dónde está?")
    (made,) = same_form([chat], [chat])
    assert [role for role, _ in made.messages] == ["user", "assistant"]
    assert re.fullmatch(r"Is [A-Z][a-z]{2} here\?", made.messages[0][1]) and "Ana" not in made.messages[0][1]
    assert re.fullmatch(r"¿[A-Z][a-z]{4} [a-z]{4}\?", made.completion)
