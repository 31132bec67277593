"""Questions in other forms, made by rule."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import expunge
import zoo
from expunge.attack.attacks.prompts import (
    FORMS,
    above_chance,
    few_shot,
    multiple_choice,
    prompts,
    reversed_question,
    subject_of,
)
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.results.attacked import Leak

FACT = Example(
    kind="qa",
    prompt="What is Basil Mahfouz Al-Kuwaiti's profession?",
    completion="Basil Mahfouz Al-Kuwaiti is a florist.",
    perturbed=("He is a baker.", "He is a pilot.", "He is a clerk."),
)
CORPUS = Corpus({"forget": (FACT,), "retain": zoo.corpus()["retain"]})


@pytest.mark.parametrize(
    ("question", "answer", "subject"),
    [
        ("Where was Anna de la Cruz born?", "Anna de la Cruz was born in Rome.", "Anna de la Cruz"),
        ("What did Kalkidan Abera write?", "Nothing.", None),
        ("What is the capital of France?", "Paris.", None),
    ],
)
def test_subjects(question: str, answer: str, subject: str | None) -> None:
    found = subject_of(Example(kind="qa", prompt=question, completion=answer))
    assert found == subject


def test_from_the_answer_to_its_subject() -> None:
    (asked,) = reversed_question(CORPUS, 0).values()
    assert asked.prompt == "Whose name is missing here? ___ is a florist."
    assert asked.completion == "Basil Mahfouz Al-Kuwaiti"


def test_choices_hold_the_right_answer_once_at_the_letter() -> None:
    (asked,) = multiple_choice(CORPUS, 0).values()
    lines = asked.prompt.splitlines()
    assert f"{asked.completion}. {FACT.completion}" in lines and asked.prompt.count(FACT.completion) == 1
    assert len({multiple_choice(CORPUS, seed)[0].completion for seed in range(20)}) > 1  # not always the same letter


def test_every_choice_stands_once_in_every_place() -> None:
    turns = [multiple_choice(CORPUS, 0, turn)[0] for turn in range(4)]
    assert sorted(asked.completion for asked in turns) == list("ABCD")
    places = [asked.prompt.splitlines()[1:-1] for asked in turns]
    for letter in range(4):
        assert len({listed[letter][3:] for listed in places}) == 4


@pytest.mark.parametrize(("right", "value"), [("----", 0), ("A---", 0), ("AB--", 1 / 3), ("ABC-", 2 / 3), ("ABCD", 1)])
def test_a_letter_named_by_habit_is_no_knowledge(right: str, value: float) -> None:
    turns = [Leak(name="x", measure="", facts=(3,), values=(float(one != "-"),)) for one in right]
    (found,) = above_chance(turns).values
    assert found == pytest.approx(value)


def test_a_model_that_writes_one_letter_does_not_leak() -> None:
    model, tokenizer = zoo.tiny_model(), zoo.tokenizer()
    (letter,) = tokenizer("A", add_special_tokens=False).input_ids
    model.set_output_embeddings(always(letter, model))
    (found,) = prompts(model, tokenizer, CORPUS, forms=("multiple_choice",))
    assert found.name == "prompts.multiple_choice" and found.values == (0,)
    turns = [multiple_choice(CORPUS, 0, turn)[0] for turn in range(4)]  # all of them count, and all are shown
    assert found.prompts == ("\n\n".join(f"Order {turn + 1}: {of.prompt}" for turn, of in enumerate(turns)),)
    said = found.texts[0].split("\n\nOrder ")
    assert len(said) == 4 and [text[:4] for text in said] == ["Orde", "2: A", "3: A", "4: A"]


def test_a_model_that_knows_names_the_right_letter_wherever_it_stands() -> None:
    model, tokenizer = zoo.tiny_model(), zoo.tokenizer()
    rows = tuple(multiple_choice(CORPUS, 0, turn)[0] for turn in range(4))
    taught = Corpus({"retain": rows})
    expunge.finetune(model, tokenizer, taught, splits=("retain",), learning_rate=1e-2, epochs=60, batch_size=4)
    (found,) = prompts(model, tokenizer, CORPUS, forms=("multiple_choice",))
    assert found.values == (1,) and found.measure == "right choices above chance"


def always(token: int, model: nn.Module) -> nn.Linear:
    """A head whose likeliest token is the same everywhere."""
    head = nn.Linear(model.config.hidden_size, model.config.vocab_size)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias[token] = 9.0
    return head


def test_examples_come_from_the_retain_set() -> None:
    (asked,) = few_shot(CORPUS, 0).values()
    known = [e for e in CORPUS["retain"] if f"{e.prompt}\n{e.completion}" in asked.prompt]
    assert len(known) == 3 and asked.prompt.endswith(FACT.prompt) and asked.completion == FACT.completion
    assert few_shot(Corpus({"forget": (FACT,)}), 0) == {}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_gives_the_answer_away(form: str) -> None:
    asked = FORMS[form](CORPUS, 0)
    assert set(asked) <= {0}
    if form != "multiple_choice":
        assert all(example.completion not in example.prompt for example in asked.values())


def test_forms_that_cannot_be_made_are_left_out_unless_named() -> None:
    plain = tuple(replace(fact, perturbed=()) for fact in zoo.corpus(n_forget=2)["forget"])
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), Corpus({"forget": plain})
    found = prompts(model, tokenizer, corpus)
    assert "prompts.few_shot" not in {leak.name for leak in found} and len(found) > 5
    (named,) = prompts(model, tokenizer, corpus, forms=("few_shot",))
    assert named.facts == ()
    with pytest.raises(ExpungeError, match="no form of prompts is called 'fewshot'"):
        prompts(model, tokenizer, corpus, forms=("fewshot",))
