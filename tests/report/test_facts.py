"""Facts of several models and attacks, each once."""

from dataclasses import replace
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.report.compared_models import Model, assign_roles
from expunge.report.facts import Attack, Fact, fitting, joined, measure_of
from expunge.results.attacked import Column, Leak
from expunge.results.measures import Evaluation
from expunge.results.texts import Texts
from made_facts import attacked, column, evaluation


def join(*given: Evaluation, attacks: tuple = ()) -> tuple[list[Model], list[Attack], list[Fact]]:
    return joined(assign_roles(given, start=None, retain=None), attacks)


def test_facts_of_models_are_joined_and_forget_stands_first() -> None:
    one, two = evaluation("one", [0.1, 0.2], [0.3]), evaluation("two", [0.4, 0.5, 0.6])
    backward = replace(one, samples=one.samples[::-1])  # retain first, and the forget set in another order
    _, _, facts = join(backward, two)
    assert [(f.split, f.number, f.question) for f in facts] == [
        ("forget", 0, "forget question 1?"),
        ("forget", 1, "forget question 0?"),
        ("forget", 2, "forget question 2?"),
        ("retain", 0, "retain question 0?"),
    ]
    values = [[None if s is None else s.value("extraction_strength") for s in f.said] for f in facts]
    assert values == [[0.2, 0.5], [0.1, 0.4], [None, 0.6], [0.3, None]]
    assert measure_of(facts) == "extraction_strength"
    assert facts[0].said[0] is not None
    assert facts[0].said[0].tokens == (("forget", 0.5), (" answer 1.", 0.25), ("", 1.0))


@pytest.mark.parametrize(
    ("answer", "ends", "probabilities", "expected"),
    [
        # "é" in two byte tokens amid the answer: 0.5 * 0.4 = 0.2
        ("aéb", (1, 2, 2, 3, 3), (0.9, 0.5, 0.4, 0.8, 0.7), [("a", 0.9), ("é", 0.2), ("b", 0.8), ("", 0.7)]),
        # at its end, the last token closes
        ("a東", (1, 2, 2, 2, 2), (0.9, 0.5, 0.5, 0.8, 0.7), [("a", 0.9), ("東", 0.2), ("", 0.7)]),
        ("a東", (1, 2, 2), (0.9, 0.5, 0.7), [("a", 0.9), ("東", 0.5), ("", 0.7)]),
        ("ab", (1, 2, 2, 2), (0.9, 0.8, 0.5, 0.5), [("a", 0.9), ("b", 0.8), ("", 0.25)]),  # closed by two tokens
        ("ab", (0, 1, 2, 2), (0.5, 0.8, 0.9, 1.0), [("a", 0.4), ("b", 0.9), ("", 1.0)]),  # a token without characters
        ("abc", (1, 2), (0.9, 0.8), [("a", 0.9), ("b", 0.8)]),  # cut
        ("", (0,), (0.3,), [("", 0.3)]),
        ("ab", (), (0.9, 0.8), []),
    ],
)
def test_tokens_of_one_character_are_one_piece(
    answer: str, ends: tuple[int, ...], probabilities: tuple[float, ...], expected: list[tuple[str, float]]
) -> None:
    one = evaluation("one", [0.1])
    sample = replace(one.samples[0], answer=answer, ends=ends, probabilities=probabilities)
    said = join(replace(one, samples=(sample,)))[2][0].said[0]
    assert said is not None and [piece for piece, _ in said.tokens] == [piece for piece, _ in expected]
    assert [p for _, p in said.tokens] == pytest.approx([p for _, p in expected])


def test_a_question_asked_twice_is_two_facts() -> None:
    one = evaluation("one", [0.1])
    twice = replace(one, samples=one.samples * 2)
    _, _, facts = join(twice, one)
    assert [(f.number, [s is not None for s in f.said]) for f in facts] == [(0, [True, True]), (1, [True, False])]


@pytest.mark.parametrize("texts", ["hash", "drop"])
def test_a_model_without_texts_is_joined_with_one_that_has_them(texts: Texts) -> None:
    one, two = evaluation("one", [0.1, 0.2], [0.3]), evaluation("two", [0.4, 0.5], [0.6]).with_texts(texts)
    for order in ((one, two), (two, one)):
        found = attacked("one", 2, column("plain", [0.1, 0.9], [0.0, 0.0])).with_texts(texts)
        _, _, facts = join(*order, attacks=(found,))
        assert [f.question for f in facts] == ["forget question 0?", "forget question 1?", "retain question 0?"]
        assert all(s is not None for f in facts for s in f.said)
        assert [f.tried[0].leaks for f in facts if f.tried] == [False, True]


def test_no_text_is_left_where_none_is_wanted() -> None:
    one = evaluation("one", [0.1, 0.2]).with_texts("drop")
    found = attacked("one", 2, column("plain", [0.1, 0.9], [0.0, 0.0], said="secret")).with_texts("drop")
    _, _, facts = join(one, attacks=(found,))
    assert [(f.question, f.answer) for f in facts] == [("", "")] * 2
    assert [f.tried[0].value for f in facts] == [0.1, 0.9]
    assert all(s is not None and s.generation is None and not s.tokens for f in facts for s in f.said)
    assert all(f.tried[0].prompt is None and f.tried[0].text is None for f in facts)


def test_attacks_go_to_their_facts_by_question_and_to_their_model_by_its_weights() -> None:
    one, two = evaluation("one", [0.1, 0.2]), evaluation("two", [0.3, 0.4])
    found = replace(
        attacked("another name", 2, column("plain", [0.5, 0.6], [0.1, 0.5], said="x"), column("nf4", [0.7])),
        questions=("forget question 1?", "forget question 0?"),  # another order
        inputs={"model": "digest of two"},
    )
    models, attacks, facts = join(one, two, attacks=(found,))
    assert [m.label for m in models] == ["one", "two"] and [a.model for a in attacks] == [1, 1]
    first, second = facts[0].tried[0], facts[1].tried[0]
    assert (second.value, second.control, second.leaks) == (0.5, 0.1, True)
    assert second.recovery == pytest.approx(0.4)
    assert (first.value, first.control, first.leaks) == (0.6, 0.5, False)
    assert (second.prompt, second.text, second.control_text) == ("x prompt 0", "x model text 0", "x control text 0")
    assert 1 not in facts[0].tried and facts[1].tried[1].control is None and facts[1].tried[1].leaks


def test_an_attack_that_was_measured_along_the_way_shows_the_step_at_which_most_came_back() -> None:
    def leak(middle: float, end: float) -> Leak:
        made = column("relearn.form", [end]).leak
        assert made is not None
        return replace(made, curve=((0.0, 1.0), (5.0, middle), (10.0, end)), by_point=((1.0,), (middle,), (end,)))

    tried = Column(name="relearn.form", leak=leak(0.75, 0.5), control=leak(0.25, 0.375), threshold=0.3)
    _, _, (fact,) = join(evaluation("npo", [0.1]), attacks=(attacked("npo", 1, tried),))
    found = fact.tried[0]
    assert (found.value, found.control, found.recovery, found.leaks, found.step) == (0.75, 0.25, 0.5, True, 5.0)


def test_attacks_on_other_weights_never_speak_for_a_model_of_the_same_label() -> None:
    one = evaluation("model", [0.1, 0.2])
    other = replace(attacked("model", 2, column("plain", [0.0, 0.0])), inputs={"model": "digest of another"})
    with pytest.raises(ExpungeError, match=r"'model' are on other weights \(digest of another\).*\(digest of model\)"):
        join(one, attacks=(other,))
    apart = replace(other, label="another")
    models, attacks, _ = join(one, attacks=(apart,))
    assert [m.label for m in models] == ["model", "another"] and attacks[0].model == 1
    # Where weights cannot be compared, the label tells.
    merged = replace(other, columns=(*other.columns, column("merged", [0.0, 0.0])))
    unnamed = replace(other, inputs={})
    for given, found in ((one, merged), (one, unnamed), (replace(one, about={}), other)):
        assert [a.model for a in join(given, attacks=(found,))[1]] == [0] * len(found.columns)


def test_attacks_that_were_found_are_left_out_where_they_do_not_fit() -> None:
    models = [Model(evaluation("model", [0.1, 0.2]))]
    named, found = (attacked("model", 2, column(name, [0.0, 0.0])) for name in ("lens", "plain"))
    other = replace(found, inputs={"model": "digest of another"})
    apart = replace(other, label="apart")  # on weights of no model that is shown
    files = {Path("npo-attacked/attacked.json"): other, Path("again/attacked.json"): found, Path("x/a.json"): apart}
    shown, notes = fitting(models, [named], files)
    assert shown == [named, found]
    assert notes[1] == "x/a.json was left out: the attacks labeled 'apart' are on another model than those shown."
    assert len(notes) == 2 and notes[0].startswith("npo-attacked/attacked.json was left out: the attacks labeled")


def on(one: Evaluation, **sets: str) -> Evaluation:
    """The evaluation with fingerprints of its sets."""
    asked = {f"data.{split}": found for split, found in sets.items()}
    return replace(one, about={"inputs": {**one.about["inputs"], **asked}})


@pytest.mark.parametrize("texts", ["keep", "hash", "drop"])
def test_attacks_on_another_forget_set_are_refused(texts: Texts) -> None:
    one = on(evaluation("one", [0.1, 0.2]), forget="set A").with_texts(texts)
    found = attacked("one", 2, column("plain", [0.5, 0.6])).with_texts(texts)
    same, other = (replace(found, inputs={**found.inputs, "forget": name}) for name in ("set A", "set B"))
    assert [f.tried[0].value for f in join(one, attacks=(same,))[2]] == [0.5, 0.6]
    with pytest.raises(ExpungeError, match=r"attacks on one: set B, evaluation of one: set A\. Evaluate and attack"):
        join(one, attacks=(other,))
    with pytest.raises(ExpungeError, match="attacks on one: set B, other attacks on one: set A"):
        join(evaluation("two", []), attacks=(same, other))


def test_where_texts_are_missing_all_models_must_have_been_asked_the_same_sets() -> None:
    one, two = on(evaluation("one", [0.1], [0.2]), forget="A", retain="R"), evaluation("two", [0.3], [0.4])
    same, other = on(two, forget="A", retain="R"), on(two, forget="A", retain="S")
    assert len(join(one, other)[2]) == 2  # texts tell which facts are the same
    assert len(join(one, same.with_texts("drop"))[2]) == 2
    with pytest.raises(ExpungeError, match=r"different sets 'retain', one: R, two: S.*texts=keep"):
        join(one, other.with_texts("drop"))
    # An attack is paired by place with the facts of models that it was not made on, too.
    found = attacked("three", 1, column("plain", [0.5])).with_texts("drop")
    with pytest.raises(ExpungeError, match="attacks on three: B, evaluation of one: A"):
        join(one.with_texts("drop"), attacks=(replace(found, inputs={"forget": "B"}),))


def test_an_attacked_model_that_was_not_evaluated_joins_with_its_facts() -> None:
    found = attacked("npo", 2, column("plain", [0.5, 0.1], [0.0, 0.0]))
    models, attacks, facts = join(evaluation("other", []), attacks=(found,))
    assert [m.label for m in models] == ["other", "npo"] and attacks[0].model == 1
    assert [(f.question, f.said, f.tried[0].leaks) for f in facts] == [
        ("forget question 0?", (None, None), True),
        ("forget question 1?", (None, None), False),
    ]
    assert measure_of(facts) is None


def test_a_fact_that_only_an_attack_knows_is_added() -> None:
    found = attacked("one", 3, column("plain", [0.0, 0.0, 0.9], [0.0, 0.0, 0.0]))
    _, _, facts = join(evaluation("one", [0.1, 0.2], [0.9]), attacks=(found,))
    assert [(f.split, f.number) for f in facts] == [("forget", 0), ("forget", 1), ("forget", 2), ("retain", 0)]
    assert facts[2].question == "forget question 2?"
    assert facts[2].tried[0].leaks and facts[2].said == (None,)


def test_facts_are_judged_by_the_first_measure_that_all_have() -> None:
    one, two = evaluation("one", [0.1]), evaluation("two", [0.2], measure="rouge")
    assert measure_of(join(one, two)[2]) is None
    assert measure_of(join(two)[2]) == "rouge"
    both = replace(one, samples=(replace(one.samples[0], values={"forget_rouge": 1.0, "forget_probability": 0.5}),))
    assert measure_of(join(both)[2]) == "probability"
    assert measure_of([]) is None
