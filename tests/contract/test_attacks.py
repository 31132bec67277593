"""What holds for every attack, found by discovery: the model is put back, a seed decides, each fact has its value."""

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from expunge.attack import hidden
from expunge.attack.attacks import depth as depth_module
from expunge.attack.attacks import latent as latent_module
from expunge.attack.attacks import lens as lens_module
from expunge.attack.attacks import prefix_search as prefix_module
from expunge.attack.attacks import probe as probe_module
from expunge.attack.attacks import sampling as sampling_module
from expunge.attack.budget import budget_of
from expunge.core import catalogue
from expunge.core.catalogue import names, resolve
from expunge.data.corpus import Corpus
from expunge.evaluation import collect
from expunge.models.load import save_model
from expunge.results.attacked import Leak

SMALL: dict[str, dict[str, Any]] = {
    "prefix_search": {"length": 2, "swaps": 2, "candidates": 3, "shown": 2},
    "sampling": {"samples": 2, "k": 1},
    "relearn": {"steps": 2, "points": 2},
    "siblings": {"steps": 2, "points": 2},
    "probe": {"folds": 3},
    "quantize": {"forms": ("int8", "nf4", "q4_0", "q8_0", "bfloat16")},
}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Facts about one subject with wrong answers, so that every form of question can be made."""
    facts = zoo.corpus()["forget"]
    varied = tuple(
        replace(
            fact,
            prompt=f"Ana Ruiz: {fact.prompt}",
            completion=f"{fact.completion} Ana Ruiz",
            perturbed=("In a boat.", "In Rome.", "At sea."),
        )
        for fact in facts
    )
    return Corpus({"forget": varied, "retain": zoo.corpus()["retain"]}, "facts")


def settings_of(name: str, folder: Path, architecture: str) -> dict[str, Any]:
    attack, found = resolve("attacks", name), dict(SMALL.get(name, {}))
    if "start" in catalogue.hyperparameters(attack):
        model = zoo.tiny_model(architecture, seed=7)
        found["start"] = str(save_model(model, zoo.tokenizer(), folder / f"start-{architecture}"))
    return found


def run(name: str, model: Any, corpus: Corpus, **settings: Any) -> Sequence[Leak]:
    found = resolve("attacks", name)(model, zoo.tokenizer(), corpus, **settings)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("name", names("attacks"))
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_model_is_put_back_and_a_seed_decides(name: str, architecture: str, corpus: Corpus, tmp_path: Path) -> None:
    model, settings = zoo.tiny_model(architecture), settings_of(name, tmp_path, architecture)
    model.train()
    next(model.parameters()).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    once, again = run(name, model, corpus, **settings), run(name, model, corpus, **settings)
    assert once == again and once
    assert model.training and not next(model.parameters()).requires_grad
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", names("attacks"))
def test_leaks_are_named_after_the_attack_and_have_a_value_a_fact(name: str, corpus: Corpus, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    settings = settings_of(name, tmp_path, "llama")
    leaks = run(
        name, zoo.tiny_model(), corpus, **settings, progress=lambda what, done, total, _: told.append((done, total))
    )
    assert told and all(done <= total for done, total in told)
    assert len({leak.name for leak in leaks}) == len(leaks)
    for leak in leaks:
        assert leak.name == name or leak.name.startswith(f"{name}.")
        assert leak.facts and set(leak.facts) <= set(range(len(corpus["forget"])))
        assert list(leak.facts) == sorted(leak.facts) and leak.measure
        assert all(len(texts) in (0, len(leak.facts)) for texts in (leak.texts, leak.prompts))


STATED = [name for name in names("attacks") if hasattr(inspect.getmodule(resolve("attacks", name)), "budget")]


@pytest.mark.parametrize("name", STATED)
def test_the_budget_that_is_stated_is_what_is_computed(
    name: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, made = settings_of(name, tmp_path, "llama"), Counter[str]()

    def counting(what: str, function: Any, size: Any) -> Any:
        def counted(*given: Any, **more: Any) -> Any:
            made[what] += size(*given)
            return function(*given, **more)

        return counted

    for place in (collect, sampling_module):
        each = counting("generated", place.continuations, lambda model, wanted: len(wanted))
        monkeypatch.setattr(place, "continuations", each)
    for place in (collect, prefix_module):
        scored = counting("scored", place.teacher_forced, lambda model, rows: len(rows))
        monkeypatch.setattr(place, "teacher_forced", scored)
    for place in (lens_module, probe_module, depth_module):
        passed = counting("scored", place.block_outputs, lambda model, rows: len(rows))
        monkeypatch.setattr(place, "block_outputs", passed)
    mean = counting("scored", hidden.mean_logprobs, lambda model, rows: 0 if torch.is_grad_enabled() else len(rows))
    mean = counting("backward", mean, lambda model, rows: len(rows) if torch.is_grad_enabled() else 0)
    for place in (depth_module, latent_module):
        monkeypatch.setattr(place, "mean_logprobs", mean)
    monkeypatch.setattr(prefix_module, "collate", counting("backward", prefix_module.collate, len))
    monkeypatch.setattr(torch.autograd, "grad", counting("steps", torch.autograd.grad, lambda *given: 1))
    step = counting("steps", torch.optim.AdamW.step, lambda *given: 1)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    stated = budget_of(resolve("attacks", name), corpus, settings)
    leaks = run(name, zoo.tiny_model(), corpus, **settings)
    assert stated is not None and [leak.name for leak in leaks] == list(stated.forms)
    assert (made["generated"], made["steps"]) == (stated.generated, stated.steps)
    trained = sum(leak.about.get("batch_size", 0) * settings.get("steps", 0) for leak in leaks)
    assert made["backward"] + trained == stated.backward and bool(stated.backward) == bool(stated.steps)
    if name == "prefix_search":  # candidates that are drawn twice, or that no user could type, are not computed
        assert 0 < made["scored"] <= stated.scored
    else:
        assert made["scored"] == stated.scored


def test_budgets_are_stated() -> None:
    assert STATED == list(names("attacks"))


@pytest.mark.parametrize("name", names("attacks"))
def test_the_signature(name: str) -> None:
    attack = resolve("attacks", name)
    assert catalogue.needs(attack) == ("model", "tokenizer", "corpus")
    assert {"template", "max_length", "progress"} <= set(inspect.signature(attack).parameters)
