"""Relearning: what is trained on and measured, the curve, and that looking at it changes nothing."""

import copy
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import nn

import expunge
import zoo
from expunge.attack.attacks import relearn as module
from expunge.attack.attacks.relearn import Relearning, default_rate, relearn, relearned
from expunge.attack.measuring import Asker
from expunge.attack.same_form import same_form
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.evaluation.evaluate import evaluate
from expunge.results.attacked import CannotRun

FAST: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 2}


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_relearning_teaches_the_forget_set_and_is_the_same_each_time() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    settings = {**FAST, "epochs": 4}
    one, other = (relearned(copy.deepcopy(model), tokenizer, corpus["forget"], **settings) for _ in range(2))
    before, after = (
        evaluate(m, tokenizer, corpus, metrics=["forget_probability"])["forget_probability"] for m in (model, one)
    )
    assert float(after) > 2 * float(before)
    assert equal(one, other) and not equal(one, model)


def test_it_is_plain_fine_tuning_at_a_constant_rate() -> None:
    tokenizer, corpus = zoo.tokenizer(), zoo.corpus()
    one = relearned(zoo.tiny_model(), tokenizer, corpus["forget"], **FAST, epochs=2, seed=3)
    how: dict[str, Any] = {"epochs": 2, "seed": 3, "weight_decay": 0, "warmup": 0, "schedule": "constant"}
    other = expunge.finetune(zoo.tiny_model(), tokenizer, corpus, splits=("forget",), **FAST, **how).model
    assert equal(one, other)


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_points_along_the_way_move_no_weight(adapter: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a training that is measured four times is that of one that is not, bit for bit."""
    tokenizer, corpus, ends = zoo.tokenizer(), zoo.corpus(), list[nn.Module]()

    def kept(model: Any, *given: Any, **settings: Any) -> Any:
        found = relearned(model, *given, **settings)
        ends.append(copy.deepcopy(found))
        return found

    monkeypatch.setattr(module, "relearned", kept)
    (leak,) = relearn(zoo.tiny_model(), tokenizer, corpus, on=("retain",), steps=9, points=4, adapter=adapter, **FAST)
    assert [step for step, _ in leak.curve] == [0, 3, 6, 9]
    rows = corpus["retain"][:3]
    uncut = relearned(zoo.tiny_model(), tokenizer, rows, **FAST, epochs=9 * 2 / 3, adapter=adapter)
    assert equal(ends[0], uncut) and not equal(uncut, zoo.tiny_model())


def test_the_curve_is_what_shorter_trainings_end_at() -> None:
    tokenizer, corpus = zoo.tokenizer(), zoo.corpus()
    taught = expunge.finetune(zoo.tiny_model(), tokenizer, corpus, splits=("forget",), learning_rate=1e-2, epochs=12)
    (leak,) = relearn(taught.model, tokenizer, corpus, on=("retain",), steps=5, points=3, learning_rate=1e-2)
    values: list[tuple[float, ...]] = []
    for steps in (0, 2, 5):
        model = copy.deepcopy(taught.model)
        if steps:
            rows = corpus["retain"][:3]
            relearned(model, tokenizer, rows, learning_rate=1e-2, epochs=steps, batch_size=3)
        values.append(Asker(tokenizer, generate=False).known(model, "it", corpus["forget"]).values)
    assert leak.by_point == tuple(values) and len(set(values)) == 3
    assert leak.curve == tuple((step, fmean(of)) for step, of in zip((0, 2, 5), values, strict=True))
    assert leak.about == {"rows": 3, "batch_size": 3, "learning_rate": 1e-2, "adapter": None}
    assert len(leak.texts) == 6


def test_what_is_shown_and_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, shown = zoo.corpus(), dict[str, tuple[Example, ...]]()

    def noted(model: Any, tokenizer: Any, rows: Any, **settings: Any) -> None:
        shown[f"set {len(shown)}"] = tuple(rows)
        assert settings["epochs"] * len(rows) / settings["batch_size"] == pytest.approx(10)

    monkeypatch.setattr(module, "relearned", noted)
    forget, retain, form = relearn(zoo.tiny_model(), zoo.tokenizer(), corpus, seed=0)
    assert [leak.name for leak in (forget, retain, form)] == ["relearn.forget", "relearn.retain", "relearn.form"]
    drawn = tuple(i for i in range(6) if i not in forget.facts)
    assert len(drawn) == 3 and retain.facts == form.facts == tuple(range(6))
    facts = tuple(corpus["forget"][i] for i in drawn)
    assert list(shown.values()) == [facts, corpus["retain"][:3], tuple(same_form(facts, corpus["forget"], 0))]


def test_progress_names_the_set_that_is_learned() -> None:
    told: list[tuple[str, str]] = []

    def noted(what: str, done: int, total: int, numbers: str) -> None:
        told.append((what, numbers))

    relearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), steps=2, points=2, progress=noted)
    trained = [(what, numbers.split()[0]) for what, numbers in told if "training" in what]
    assert dict.fromkeys(trained) == {
        ("relearn on forget rows: training", "loss"): None,
        ("relearn on retain rows: training", "loss"): None,
        ("relearn on text of the same form: training", "loss"): None,
    }
    assert len(trained) == 6


@pytest.mark.parametrize(("share", "n"), [(0, 5), (1, 1), (0.5, 3)])
def test_one_fact_at_least_is_shown_and_one_is_not(share: float, n: int) -> None:
    (leak,) = relearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), on=("forget",), shown=share, steps=1)
    assert len(leak.facts) == n


def test_the_rate_follows_the_size_of_the_model() -> None:
    model = zoo.tiny_model()  # far below a thirtieth of a billion
    assert default_rate(model, None) == pytest.approx(6e-4) and default_rate(model, "lora") == pytest.approx(3e-3)
    (leak,) = relearn(model, zoo.tokenizer(), zoo.corpus(), on=("retain",), steps=1)
    assert leak.about["learning_rate"] == pytest.approx(6e-4)


def test_points() -> None:
    assert Relearning(steps=10, points=4).looks == (0, 3, 7, 10)
    assert Relearning(steps=2, points=9).looks == (0, 1, 2)
    assert Relearning(steps=7, points=2).looks == (0, 7)


def test_mistakes() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"on": ("forgot",)}, "no set to relearn is called 'forgot'"),
        ({"adapter": "fila"}, "no adapter of relearning is called 'fila'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"points": 1}, "points must be at least 2; got 1. A curve has a start and an end."),
        ({"shown": 2}, "shown must be between 0 and 1"),
    )
    for settings, message in wrong:
        with pytest.raises(ExpungeError, match=message):
            relearn(model, tokenizer, corpus, **settings)
    with pytest.raises(CannotRun, match="the forget set has one fact"):
        relearn(model, tokenizer, Corpus({"forget": corpus["forget"][:1]}))
