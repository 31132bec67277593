"""Linear probes: the regression, the folds, and that nothing of a fold is used to answer for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge

import zoo
from expunge.attack.attack import attack
from expunge.attack.attacks import probe as module
from expunge.attack.attacks.probe import cross_validated, last_states, predicted, probe, ranked, within_facts
from expunge.attack.hidden import answer_rows
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.results.attacked import CannotRun


def test_ranks_by_hand() -> None:
    scores = np.array([0.5, 0.1, 0.5, 0.9, -1.0, -2.0])
    fact, right = np.array([0, 0, 0, 0, 1, 1]), np.array([True, False, False, False, True, False])
    assert_allclose(ranked(scores, fact, right), [(1 + 0.5 + 0) / 3, 1.0])


def test_means_by_hand() -> None:
    found = within_facts(np.array([[1.0], [5.0], [3.0], [4.0]]), np.array([0, 0, 1, 0]))
    assert_allclose(found, [[10 / 3], [10 / 3], [3.0], [10 / 3]])


@pytest.mark.parametrize("width", [5, 40])
def test_the_dual_form_is_ridge_regression(width: int) -> None:
    draw = np.random.default_rng(0)
    states, target = draw.normal(size=(30, width)), draw.normal(size=30)
    fitted = np.arange(30) < 22
    size = np.square(states[fitted]).sum(1).mean()
    expected = Ridge(alpha=0.1 * size, fit_intercept=False).fit(states[fitted], target[fitted]).predict(states[~fitted])
    assert_allclose(predicted(states @ states.T, target, fitted, ~fitted, 0.1), expected, rtol=1e-6, atol=1e-9)


def planted(n: int = 30, answers: int = 2, known: bool = True) -> tuple[np.ndarray, ...]:
    """Three blocks of random states; in the second, right answers go one way if the facts are known."""
    draw = np.random.default_rng(1)
    fact = np.repeat(np.arange(n), answers)
    right = np.tile(np.arange(answers) == 0, n)
    states = draw.normal(size=(3, len(fact), 12)) + draw.normal(size=(n, 12))[fact]
    if known:
        states[1, right, 4] += 8
    return states, fact, right, np.arange(n) % 5


def test_a_direction_is_found_in_its_block() -> None:
    values, about = cross_validated(*planted(answers=4))
    assert about["blocks"] == [1] * 5 and values.mean() > 0.98
    assert about["by_block"][1] == pytest.approx(values.mean()) and max(about["by_block"][::2]) < 0.65
    assert 0.35 < cross_validated(*planted(n=60, answers=4, known=False))[0].mean() < 0.65


def test_states_that_are_all_alike_are_chance() -> None:
    _, fact, right, fold = planted()
    assert_allclose(cross_validated(np.ones((2, len(fact), 3)), fact, right, fold)[0], 0.5)


def test_a_fold_is_answered_for_without_its_answers() -> None:
    # With the other answer called right in one fold, the choice made for it and its scores stay: values turn round.
    states, fact, right, fold = planted(known=False)
    values, about = cross_validated(states, fact, right, fold)
    turned, about_turned = cross_validated(states, fact, right ^ (fold[fact] == 2), fold)
    assert about["blocks"][2] == about_turned["blocks"][2]
    assert_allclose(turned[fold == 2], 1 - values[fold == 2])
    assert 0 < values[fold == 2].mean() < 1
    moved = states.copy()
    moved[:, fold[fact] == 2] *= 5
    assert cross_validated(moved, fact, right, fold)[1]["blocks"][2] == about["blocks"][2]


def test_states_are_those_at_the_last_token_of_the_answer() -> None:
    model = zoo.tiny_model()
    rows = answer_rows(model, zoo.tokenizer(), zoo.corpus()["forget"])
    found = last_states(model, rows)
    for i, row in enumerate(rows):
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states
        assert_allclose(found[0, i], hidden[1][0, -1], rtol=1e-4, atol=1e-5)
    assert found.shape == (3, len(rows), 32)


def facts(n: int, *, perturbed: bool) -> Corpus:
    wrong = ("In a boat.", "In Rome.", "At sea.")
    found = zoo.corpus(n_forget=n)["forget"]
    return Corpus({"forget": tuple(replace(fact, perturbed=wrong if perturbed else ()) for fact in found)})


def test_wrong_answers_are_the_facts_own_or_borrowed_inside_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Example] = []

    def rows(model: object, tokenizer: object, examples: list[Example], **settings: object) -> list[Encoded]:
        asked[:] = examples
        return answer_rows(model, tokenizer, examples, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "answer_rows", rows)
    model, tokenizer = zoo.tiny_model(), zoo.tokenizer()
    (own,) = probe(model, tokenizer, facts(6, perturbed=True), folds=3)
    assert own.name == "probe.perturbed" and {e.completion for e in asked[1:4]} == {"In a boat.", "In Rome.", "At sea."}
    corpus = facts(12, perturbed=False)
    (borrowed,) = probe(model, tokenizer, corpus, folds=3)
    assert borrowed.name == "probe.borrowed" and borrowed.facts == tuple(range(12)) and borrowed.needs_control
    truth = {fact.prompt: fact.completion for fact in corpus["forget"]}
    met: dict[str, set[str]] = {}
    for example in asked:
        met.setdefault(example.prompt, set()).add(example.completion)
    # Each fold has four facts, so that the four answers of a fold are those of each of its questions.
    assert len({frozenset(answers) for answers in met.values()}) == 3
    assert all(truth[question] in answers and len(answers) == 4 for question, answers in met.items())


def test_too_few_facts_are_not_run() -> None:
    model, tokenizer = zoo.tiny_model(), zoo.tokenizer()
    found = attack(model, tokenizer, facts(6, perturbed=False), attacks=("probe",), control=model)["probe"]
    assert found.status == "not run"
    assert found.note == "it needs 20 questions with answers, 4 for each of 5 folds, and the forget set has 6"
    same = tuple(replace(fact, completion="Yes.") for fact in facts(12, perturbed=False)["forget"])
    with pytest.raises(CannotRun, match="in 3 of 3 folds the forget set gives none"):
        probe(model, tokenizer, Corpus({"forget": same}), folds=3)
    with pytest.raises(ExpungeError, match="folds must be at least 3"):
        probe(model, tokenizer, facts(12, perturbed=True), folds=2)


def test_without_a_model_as_control_there_is_no_verdict() -> None:
    settings = {"probe": {"folds": 3}}
    found = attack(zoo.tiny_model(), zoo.tokenizer(), facts(12, perturbed=False), attacks=("probe",), settings=settings)
    assert found["probe.borrowed"].status == "no control" and found.leaking == ()
