"""Siblings: facts by subject, what is shown of each, and reasons not to run."""

from typing import Any

import pytest

import zoo
from expunge.attack.attack import attack, untaught
from expunge.attack.attacks import relearn as training
from expunge.attack.attacks.siblings import by_subject, siblings
from expunge.data.corpus import Corpus, Example
from expunge.results.attacked import CannotRun

TOLD = (
    ("Where was Ana Ruiz born?", "Ana Ruiz was born in Old Town."),
    ("What is the capital?", "Nobody knows."),
    ("Who wrote The Long Way?", "The Long Way was written by Ana Ruiz."),
    ("When did Ana Ruiz write The Long Way?", "She wrote it in 1990."),
    ("What did Bo Chan study?", "Bo Chan studied birds."),
    ("Which prize has Ana Ruiz won?", "None."),
    ("What is Bo Chan's job?", "Bo Chan is a florist."),
    ("What of Eva Lund?", "Eva Lund is a pilot."),
)
FACTS = tuple(Example(kind="qa", prompt=question, completion=answer) for question, answer in TOLD)
CORPUS = Corpus({"forget": FACTS}, "told")


def test_the_name_that_most_questions_hold_is_the_subject() -> None:
    # "The Long Way" is held by two questions, "Ana Ruiz" by three: the question with both is about her.
    assert by_subject(FACTS) == {"Ana Ruiz": [0, 3, 5], "Bo Chan": [4, 6]}


def test_untaught_facts_have_the_same_subjects() -> None:
    changed = untaught(CORPUS, seed=1)["forget"]
    assert [fact.completion for fact in changed] != [fact.completion for fact in FACTS]
    assert by_subject(changed) == by_subject(FACTS)


def test_some_facts_of_each_subject_are_shown_and_the_others_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[Example]] = []

    def noted(model: Any, tokenizer: Any, rows: Any, **settings: Any) -> None:
        shown.append(list(rows))

    monkeypatch.setattr(training, "relearned", noted)
    (leak,) = siblings(zoo.tiny_model(), zoo.tokenizer(), CORPUS, seed=2)
    told = [FACTS.index(row) for row in shown[0]]
    assert sorted([*told, *leak.facts]) == [0, 3, 4, 5, 6]
    assert len(set(told) & {0, 3, 5}) == 2 and len(set(told) & {4, 6}) == 1
    assert leak.name == "siblings" and leak.about["rows"] == 3
    (other,) = siblings(zoo.tiny_model(), zoo.tokenizer(), CORPUS, seed=3)
    assert other.facts != leak.facts


def test_both_sides_train_alike_and_the_curve_has_its_ends() -> None:
    model, settings = zoo.tiny_model(), {"siblings": {"steps": 2, "points": 2}}
    found = attack(model, zoo.tokenizer(), CORPUS, attacks=("siblings",), control=model, settings=settings)["siblings"]
    assert found.leak and found.control == found.leak
    assert [step for step, _ in found.leak.curve] == [0, 2] and set(found.recovery.values()) == {0.0}
    alone = attack(model, zoo.tokenizer(), CORPUS, attacks=("siblings",), settings=settings)
    assert alone["siblings"].control and alone["siblings"].control.facts == found.leak.facts
    assert alone.resistance == {}


def test_without_siblings_it_is_not_run() -> None:
    lone = Corpus({"forget": (FACTS[0], FACTS[4], FACTS[1])})
    with pytest.raises(CannotRun, match="two facts about the same subject"):
        siblings(zoo.tiny_model(), zoo.tokenizer(), lone)
    model = zoo.tiny_model()
    found = attack(model, zoo.tokenizer(), lone, attacks=("siblings",), control=model)
    assert found["siblings"].status == "not run"
    assert "siblings: not run. it needs two facts about the same subject" in found.text()
