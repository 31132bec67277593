"""The stage: every attack on model and control, untaught facts, and what it refuses."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import expunge
import zoo
from expunge.attack.attack import WORK, attack, untaught
from expunge.attack.budget import ANSWER, BACKWARD, Budget
from expunge.core import progress
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.results.attacked import CannotRun, Leak, load_attacked

CHEAP = {"quantize": {"forms": ("int8",)}}


def test_the_model_against_itself_recovers_nothing() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    found = attack(model, tokenizer, corpus, attacks=("quantize",), control=model, settings=CHEAP)
    assert [column.name for column in found.columns] == ["plain", "quantize.int8"]
    assert found.control == "retain model" and found.leaking == ()
    assert all(set(column.recovery.values()) == {0.0} for column in found.columns)


def adapted_model() -> PeftModel:
    adapted = get_peft_model(zoo.tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    assert isinstance(adapted, PeftModel)
    return adapted


OLD_NAME = "ignore:.is_gradient_checkpointing.:FutureWarning"
"""Peft asks for it."""


@pytest.mark.filterwarnings(OLD_NAME)
def test_a_control_with_an_adapter_is_the_adapted_model() -> None:
    base, adapted = zoo.tiny_model(), adapted_model()
    how: Any = {"attacks": ("quantize",), "settings": CHEAP}
    found = attack(base, zoo.tokenizer(), zoo.corpus(), control=adapted, **how)
    merged = attack(base, zoo.tokenizer(), zoo.corpus(), control=adapted.merge_and_unload(), **how)
    assert found["plain"].control == merged["plain"].control != found["plain"].leak


def test_what_one_model_knows_and_another_does_not_leaks(tmp_path: Path) -> None:
    tokenizer, corpus = zoo.tokenizer(), zoo.corpus()
    knowing = zoo.tiny_model()
    expunge.finetune(knowing, tokenizer, corpus, splits=("forget",), learning_rate=1e-2, epochs=30, batch_size=6)
    before = {key: value.clone() for key, value in knowing.state_dict().items()}
    found = attack(
        knowing,
        tokenizer,
        corpus,
        attacks=("quantize",),
        control=zoo.tiny_model(),
        settings=CHEAP,
        output_dir=tmp_path,
        label="knowing",
    )
    assert all(torch.equal(before[key], value) for key, value in knowing.state_dict().items())
    assert {file.name for file in tmp_path.iterdir()} == {"attacked.json", "leak_map.png"}
    assert set(found.leaking) == set(range(6)) and (found["plain"].mean or 0) > 0.5
    assert load_attacked(tmp_path) == found
    # Without another model: facts of the same form that it was never taught.
    alone = attack(knowing, tokenizer, corpus, attacks=("quantize",), settings=CHEAP)
    assert alone.control == "untaught facts" and (alone["plain"].mean or 0) > 0.3
    # The result of an attack on the control serves for other models.
    control = attack(zoo.tiny_model(), tokenizer, corpus, attacks=("quantize",), settings=CHEAP)
    again = attack(knowing, tokenizer, corpus, attacks=("quantize",), settings=CHEAP, control=control)
    assert again["quantize.int8"].recovery == found["quantize.int8"].recovery


def test_adapters_are_attacked_merged_and_left_as_they_are() -> None:
    corpus = zoo.corpus()
    run = expunge.unlearn(
        zoo.tiny_model(), zoo.tokenizer(), corpus, method="npo", adapter="lora", save="adapter", rank=2, epochs=1
    )
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    found = attack(run.model, zoo.tokenizer(), corpus, attacks=("quantize",), settings=CHEAP)
    assert len(found["quantize.int8"].recovery) == 6
    assert all(torch.equal(before[key], value) for key, value in run.model.state_dict().items())


@pytest.mark.filterwarnings(OLD_NAME)
def test_a_model_with_an_adapter_is_asked_with_it_beside_and_merged() -> None:
    adapted, tokenizer, corpus = adapted_model(), zoo.tokenizer(), zoo.corpus()
    before = {key: value.clone() for key, value in adapted.state_dict().items()}
    how: Any = {"attacks": ("quantize",), "settings": CHEAP}
    found = attack(adapted, tokenizer, corpus, control=zoo.tiny_model(), **how)
    assert [column.name for column in found.columns] == ["plain", "merged", "quantize.int8"]
    assert all(torch.equal(before[key], value) for key, value in adapted.state_dict().items())
    merged = attack(adapted.merge_and_unload(), tokenizer, corpus, control=zoo.tiny_model(), **how)
    for leak in (found["plain"].leak, found["merged"].leak):
        assert leak is not None and merged["plain"].leak is not None
        assert (leak.values, leak.texts) == (merged["plain"].leak.values, merged["plain"].leak.texts)
    assert found["quantize.int8"].leak == merged["quantize.int8"].leak
    # An earlier result on a control without adapters serves for both.
    control = attack(zoo.tiny_model(), tokenizer, corpus, **how)
    again = attack(adapted_model(), tokenizer, corpus, control=control, **how)
    assert again["merged"].control == again["plain"].control == control["plain"].leak


def test_untaught_facts_keep_no_answer_and_lose_none() -> None:
    corpus = zoo.corpus()
    changed = untaught(corpus, seed=3)["forget"]
    assert sorted(e.completion for e in changed) == sorted(e.completion for e in corpus["forget"])
    assert [e.prompt for e in changed] == [e.prompt for e in corpus["forget"]]
    assert all(a.completion != b.completion for a, b in zip(changed, corpus["forget"], strict=True))
    assert untaught(corpus, seed=3) == untaught(corpus, seed=3)
    # Equal answers of several facts stay with none of them.
    facts = tuple(Example(kind="qa", prompt=f"{i}?", completion=answer) for i, answer in enumerate("aabbc"))
    changed = untaught(Corpus({"forget": facts}))["forget"]
    assert all(a.completion != b.completion for a, b in zip(changed, facts, strict=True))
    with pytest.raises(ExpungeError, match="two or more different answers"):
        untaught(Corpus({"forget": (facts[0], replace(facts[1], prompt="other?"))}))


def needy(model: object, tokenizer: object, corpus: Corpus) -> list[object]:
    """An attack from outside that cannot do without a holdout set, as its module says."""
    raise AssertionError("it must not be called")


NEEDS = ("holdout",)


def test_without_a_retain_set_what_is_possible_is_run_and_the_rest_named() -> None:
    corpus = Corpus({"forget": zoo.corpus()["forget"]})
    model, tokenizer = zoo.tiny_model(), zoo.tokenizer()
    settings = {"relearn": {"steps": 1, "points": 2}}
    attacks = ("relearn", f"{__name__}:needy")
    found = attack(model, tokenizer, corpus, attacks=attacks, control=model, settings=settings)
    assert [(column.name, column.status) for column in found.columns] == [
        ("plain", "ran"),
        ("relearn.forget", "ran"),
        ("relearn.form", "ran"),
        (f"{__name__}:needy", "not run"),
    ]
    assert "it needs the holdout set, which the corpus lacks" in found.text()


def test_an_attack_says_itself_why_it_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "NEEDS", ())
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    attacks = (f"{__name__}:helpless", "quantize")
    found = attack(model, tokenizer, corpus, attacks=attacks, control=model, settings=CHEAP)
    assert [(column.name, column.status, column.note) for column in found.columns] == [
        ("plain", "ran", ""),
        (f"{__name__}:helpless", "not run", "every fact is about something else"),
        ("quantize.int8", "ran", ""),
    ]
    # Neither does it say anything where the control alone cannot be attacked.
    found = attack(model, tokenizer, corpus, attacks=(f"{__name__}:helpless_untaught",))
    assert found.columns[1].status == "not run" and found.columns[1].leak is None


def helpless(model: object, tokenizer: object, corpus: Corpus) -> list[object]:
    """An attack that finds nothing to work with."""
    raise CannotRun("every fact is about something else")


def helpless_untaught(model: object, tokenizer: object, corpus: Corpus) -> list[Leak]:
    """An attack that finds nothing to work with in untaught facts."""
    if corpus.name.endswith("untaught"):
        raise CannotRun("nothing to work with")
    return [Leak(name="helpless_untaught", measure="none", facts=(), values=())]


@pytest.mark.parametrize("texts", ["hash", "drop"])
def test_a_result_without_texts_serves_as_the_control(texts: Any, tmp_path: Path) -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    how: Any = {"attacks": ("prompts", "sampling"), "settings": {"sampling": {"samples": 1, "k": 1}}}
    found = attack(model, tokenizer, corpus, control=model, texts=texts, output_dir=tmp_path, **how)
    assert found.questions[0] == corpus["forget"][0].question  # in memory they are still there
    written = (tmp_path / "attacked.json").read_text()
    said = [text for column in found.columns if column.leak for text in column.leak.texts if len(text) > 3]
    known = [text for fact in corpus["forget"] for text in (fact.question, fact.completion)]
    assert said and not any(json.dumps(text)[1:-1] in written for text in (*known, *said))
    control = load_attacked(tmp_path)
    again = attack(model, tokenizer, corpus, control=control, **how)
    assert {column.status for column in again.columns} == {"ran"} and not again.leaking
    with pytest.raises(ExpungeError, match="attacked with other facts"):
        attack(model, tokenizer, Corpus({"forget": corpus["forget"][:3]}), attacks=(), control=control)


def test_without_any_control_each_attack_is_run_once_and_serves_as_the_control(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    how: Any = {"attacks": ("quantize",), "settings": CHEAP}
    whole = attack(model, tokenizer, corpus, **how, control=model)
    runs: list[str] = []
    stage = sys.modules[attack.__module__]
    once = stage.drawn_out
    monkeypatch.setattr(stage, "drawn_out", lambda function, *a: runs.append(function.__name__) or once(function, *a))
    alone = attack(model, tokenizer, corpus, **how, control="nothing")
    assert runs == ["_plain", "quantize"] and alone.control is None and "control" not in alone.inputs
    assert all(column.control is None and column.recovery for column in alone.columns)
    again = attack(model, tokenizer, corpus, **how, control=alone)
    assert [column.control for column in again.columns] == [column.control for column in whole.columns]
    assert len(runs) == 4


def test_an_earlier_control_must_have_been_attacked_in_the_same_way() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    control = attack(model, tokenizer, corpus, attacks=("quantize",), settings=CHEAP)
    how: Any = {"attacks": ("quantize",), "settings": CHEAP, "control": control}
    for other, named in (
        ({"settings": {"quantize": {"forms": ("nf4",)}}}, "quantize"),
        ({"seed": 1}, "seed"),
        ({"max_length": 100}, "max_length"),
        ({"template": Template(name="plain")}, "template"),
    ):
        with pytest.raises(ExpungeError, match=rf"attacked with other settings \({named}\)"):
            attack(model, tokenizer, corpus, **{**how, **other})
    found = attack(model, tokenizer, corpus, **how)
    assert found.inputs["control"] == control.inputs["model"] == found.inputs["model"]
    assert "control" not in control.inputs  # untaught facts are no other model
    assert found.settings["template"]["name"] == "auto"


@pytest.mark.parametrize("texts", ["hash", "drop"])
def test_a_prefix_that_was_sought_on_true_answers_goes_with_the_texts(texts: Any) -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    own = {"prefix_search": {"length": 2, "swaps": 1, "candidates": 2, "shown": 2}}
    found = attack(model, tokenizer, corpus, attacks=("prefix_search",), control=model, settings=own)
    assert found["prefix_search"].leak and "prefix" in found["prefix_search"].leak.about
    leaks = [leak for leak in (found.with_texts(texts)["prefix_search"].leak,) if leak]
    assert leaks and all("prefix" not in leak.about and "objective" in leak.about for leak in leaks)


def test_a_broken_model_is_not_attacked() -> None:
    model = zoo.tiny_model()
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(ExpungeError, match=r"the model is broken: .* holds numbers that are not finite"):
        attack(model, zoo.tokenizer(), zoo.corpus(), attacks=("quantize",), settings=CHEAP)


def cheap(model: object, tokenizer: object, corpus: Corpus) -> list[Leak]:
    """An attack that says that it scores 2 rows."""
    NOW[0] += 2 * SECONDS
    return [Leak(name="cheap", measure="none", facts=(), values=())]


def dear(model: object, tokenizer: object, corpus: Corpus) -> list[Leak]:
    """An attack that says that it trains on 40 rows."""
    NOW[0] += 40 * BACKWARD * SECONDS
    return [Leak(name="dear", measure="none", facts=(), values=())]


NOW, SECONDS = [0.0], 5.0
"""A clock, and how long a pass of a row takes on it."""


def test_the_time_left_follows_the_work_that_attacks_state(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "NEEDS", ())
    stage, here = sys.modules[attack.__module__], f"{__name__}:"
    stated = {"cheap": Budget(forms=("cheap",), scored=2), "dear": Budget(forms=("dear",), steps=5, backward=40)}
    monkeypatch.setattr(stage, "budget_of", lambda function, *_: stated[function.__name__])
    corpus = zoo.corpus()
    plain = 6 + 6 * ANSWER

    def asked(*given: Any, **more: Any) -> list[Leak]:
        NOW[0] += plain * SECONDS
        return [Leak(name="plain", measure="none", facts=(), values=())]

    monkeypatch.setattr(stage, "_plain", asked)
    monkeypatch.setattr(progress.time, "monotonic", lambda: NOW[0])
    names = (f"{here}cheap", f"{here}dear", f"{here}cheap_again")
    stated["cheap_again"] = stated["cheap"]
    with progress.shown() as report:
        attack(zoo.tiny_model(), zoo.tokenizer(), corpus, attacks=names, control=zoo.tiny_model(), progress=report)
    # Model and control: 2 * (18 + 2 + 120 + 2) passes of 5 s. Counted by attacks, the second line would say 7 min 30 s.
    assert plain == 18 and [line for line in capsys.readouterr().err.splitlines() if "all attacks" in line] == [
        "all attacks, forward passes  0/284  plain",
        f"all attacks, forward passes  36/284  20 min 40 s left  {here}cheap",
        f"all attacks, forward passes  40/284  20 min 20 s left  {here}dear",
        f"all attacks, forward passes  280/284  20 s left  {here}cheap_again",
        "all attacks, forward passes  284/284",
    ]


def cheap_again(model: object, tokenizer: object, corpus: Corpus) -> list[Leak]:
    """Like `cheap`."""
    return cheap(model, tokenizer, corpus)


def unstated(model: object, tokenizer: object, corpus: Corpus) -> list[Leak]:
    """An attack that does not say what it computes."""
    return [Leak(name="unstated", measure="none", facts=(), values=())]


def test_what_is_known_of_the_work_weighs_and_the_rest_counts_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "NEEDS", ())
    told: dict[str, tuple[int, int]] = {}

    def noted(what: str, done: int, total: int, name: str) -> None:
        if what == WORK:
            told[name] = (done, total)

    model, corpus = zoo.tiny_model(), zoo.corpus()
    names = ("quantize", "probe", f"{__name__}:unstated", "prune")
    settings = {**CHEAP, "prune": {"shares": (0.1, 0.2, 0.3)}}
    how: Any = {"attacks": names, "settings": settings, "progress": noted}
    attack(model, zoo.tokenizer(), corpus, control="nothing", **how)
    # 18 for each time that the facts are asked; probe has too few. The mean of 18, 18 and 54 stands for the unknown.
    assert told == {
        "plain": (0, 120),
        "quantize": (18, 120),
        "probe": (36, 120),
        f"{__name__}:unstated": (36, 120),
        "prune": (66, 120),
        "": (120, 120),
    }
    attack(model, zoo.tokenizer(), corpus, control=model, **how)
    assert told["prune"] == (132, 240)


def test_mistakes() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    for wrong, message in (
        ({"attacks": ("quantise",)}, "no attack is called 'quantise'. Did you mean 'quantize'"),
        ({"settings": {"quantize": {"bits": 4}}}, "no setting of quantize is called 'bits'"),
        ({"settings": {"prompts": {}}}, r"no attack of this call \(for settings=\) is called 'prompts'"),
        ({"threshold": 2}, "threshold must be between 0 and 1"),
        ({"attacks": ("interpolate",)}, "the attack interpolate needs start"),
    ):
        with pytest.raises(ExpungeError, match=message):
            attack(model, tokenizer, corpus, **{"attacks": ("quantize",), **wrong})
    with pytest.raises(ExpungeError, match="asks for the forget set"):
        attack(model, tokenizer, Corpus({"retain": corpus["retain"]}))
    other = attack(model, tokenizer, Corpus({"forget": corpus["forget"][:3]}), attacks=(), control=model)
    with pytest.raises(ExpungeError, match="attacked with other facts"):
        attack(model, tokenizer, corpus, attacks=(), control=other)
