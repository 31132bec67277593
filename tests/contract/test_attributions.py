"""What holds for every attribution of the catalogue, found by discovery."""

from typing import Any

import pytest
import torch

import expunge
import zoo
from expunge.core.catalogue import hyperparameters, names, needs, resolve
from expunge.data.corpus import Corpus
from expunge.localize.attribution import INPUTS, attribution_of
from expunge.masks.scores import Scores

ATTRIBUTIONS = names("attributions")
CASES = [(name, unit) for name in ATTRIBUTIONS for unit in attribution_of(resolve("attributions", name)).units]
U, K = 7, 5


def shown(name: str, unit: str, rows: slice = slice(None)) -> list[Any]:
    """Tensors such as the positional parameters ask for, the same each time, of some of the units."""
    found: list[Any] = []
    for number, parameter in enumerate(needs(resolve("attributions", name))):
        generator = torch.Generator().manual_seed(number)
        width = 1 if unit == "weight" else K
        drawn = torch.randn(U, width, generator=generator, dtype=torch.float64)
        if parameter in ("unit", "group", "seed"):
            found.append({"unit": unit, "group": "g", "seed": 3}[parameter])
        elif parameter.startswith("mean_"):
            found.append(drawn[rows, 0].abs())
        else:
            found.append((drawn.square() if parameter == "forget_squares" else drawn)[rows])
    return found


def scored(name: str, unit: str, rows: slice = slice(None)) -> torch.Tensor:
    result = resolve("attributions", name)(*shown(name, unit, rows))
    return result[0] if isinstance(result, tuple) else result


def localized(name: str, corpus: Corpus | None = None, *, model: Any = None, **settings: Any) -> Scores:
    return expunge.localize(
        model or zoo.tiny_model().double(), zoo.tokenizer(), corpus or zoo.corpus(), attribution=name, **settings
    )


def assert_same(one: Scores, other: Scores) -> None:
    assert list(one.values) == list(other.values)
    for group, values in one.values.items():
        # transformers computes norms and positions in float32 whatever the model's type
        torch.testing.assert_close(other.values[group], values, rtol=1e-4, atol=1e-5 * float(values.abs().max()))


def test_the_attributions_are_there() -> None:
    assert {
        "activation", "fisher", "gradient", "magnitude", "memflex", "random", "wagle", "wanda",
    } <= set(ATTRIBUTIONS)  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_it_asks_for_what_can_be_shown_and_has_defaults(name: str) -> None:
    function = resolve("attributions", name)
    assert set(needs(function)) <= set(INPUTS)
    assert all(default is not None for default in hyperparameters(function).values())
    text = str(function.__doc__)
    assert all(word in text for word in ("Args:", "Returns:", "Source:", "Departures:"))


@pytest.mark.parametrize(("name", "unit"), CASES)
def test_one_finite_number_a_unit_and_the_same_again(name: str, unit: str) -> None:
    scores = scored(name, unit)
    assert scores.shape == (U,) and bool(torch.isfinite(scores).all()) and len(set(scores.tolist())) > 1
    assert torch.equal(scores, scored(name, unit))


@pytest.mark.parametrize(("name", "unit"), CASES)
def test_units_do_not_see_each_other(name: str, unit: str) -> None:
    if name == "random":
        return  # drawn for the whole group
    alone = torch.cat([scored(name, unit, slice(i, i + 1)) for i in range(U)])
    torch.testing.assert_close(alone, scored(name, unit), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_order_and_batches_do_not_matter(name: str) -> None:
    corpus = zoo.corpus(n_forget=6, n_retain=6)
    turned = Corpus({split: tuple(reversed(corpus[split])) for split in corpus}, "turned")
    whole = localized(name, corpus, batch_size=6)
    assert_same(whole, localized(name, corpus, batch_size=1))  # rows of unequal length: padding differs too
    assert_same(whole, localized(name, corpus, batch_size=4))
    assert_same(whole, localized(name, turned, batch_size=4))


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_the_same_twice_and_the_model_is_left_alone(name: str) -> None:
    model = zoo.tiny_model()
    model.train()
    frozen = model.get_input_embeddings().weight
    frozen.requires_grad_(False)
    kept = torch.ones_like(model.lm_head.weight)
    model.lm_head.weight.grad = kept
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    first = localized(name, model=model)
    assert model.training and not frozen.requires_grad and model.lm_head.weight.grad is kept
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) and p.requires_grad == (p is not frozen)
        assert p is model.lm_head.weight or p.grad is None
    again = localized(name, model=model)
    assert all(torch.equal(again.values[group], first.values[group]) for group in first.values)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_the_sets_that_it_looks_at_change_it_and_no_others(name: str) -> None:
    corpus, other = zoo.corpus(n_forget=4, n_retain=4), zoo.corpus(n_forget=9, n_retain=9)
    looked = needs(resolve("attributions", name))
    whole = localized(name, corpus)
    for split, signs in (("forget", ("forget_", "mean_")), ("retain", ("retain_",))):
        changed = localized(name, Corpus({**corpus.splits, split: other[split][-4:]}, "changed"))
        same = all(torch.equal(changed.values[group], whole.values[group]) for group in whole.values)
        assert same != any(parameter.startswith(signs) for parameter in looked), split


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_every_architecture(architecture: str) -> None:
    model = zoo.tiny_model(architecture)
    for name, unit in CASES:
        if name in ("random", "magnitude", "gradient"):
            continue  # they see nothing that the others do not
        scores = localized(name, model=model, unit=unit, modules=None)
        mask = scores.select(ratio=0.3)
        mask.check(model)
        assert 0.1 < mask.share().units <= 0.3
