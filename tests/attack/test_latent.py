"""Perturbed hidden states: inside the ball, up the gradient, each row by itself."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import zoo
from expunge.attack.attacks.latent import ascended, direction, latent, within
from expunge.attack.hidden import answer_rows, block_outputs, frozen, mean_logprobs, rewritten
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.models.anatomy import blocks
from expunge.results.attacked import CannotRun


def test_lengths_by_hand() -> None:
    vectors = torch.tensor([[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]])
    assert_close(direction(vectors), torch.tensor([[[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]]))
    limits = torch.tensor([[[1.0], [1.0], [0.0]]])
    assert_close(within(vectors, limits), torch.tensor([[[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]]))


def test_a_small_step_gains_what_the_gradient_says() -> None:
    model, radius = zoo.tiny_model().double(), 1e-5
    rows = answer_rows(model, zoo.tokenizer(), zoo.corpus()["forget"])
    states = block_outputs(model, rows)[1]
    change = torch.zeros_like(states, requires_grad=True)
    with frozen(model):
        plain = mean_logprobs(model, rows)
        with rewritten(blocks(model)[1], lambda own: own + change):
            (slope,) = torch.autograd.grad(mean_logprobs(model, rows).sum(), change)
        before, after = ascended(model, rows, block=1, radii=(radius,), steps=1)
    asked = torch.arange(states.shape[1]) < torch.tensor([row.start for row in rows])[:, None]
    expected = radius * (states.norm(dim=-1) * slope.norm(dim=-1) * asked).sum(1)
    assert_close(after - before, expected, rtol=0.02, atol=0.0)
    assert_close(before, plain)


def test_a_batch_passes_once_as_it_is_and_once_a_step_and_a_radius() -> None:
    model, passes = zoo.tiny_model(), 0
    rows = answer_rows(model, zoo.tokenizer(), zoo.corpus()["forget"])
    mean_logprobs(model, rows)  # a model's first pass tries some tokens of its own

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = blocks(model)[0].register_forward_hook(count)
    with frozen(model):
        ascended(model, rows, block=1, radii=(0.1, 0.2, 0.3), steps=4)
    handle.remove()
    assert passes == 1 + 3 * (4 + 1)


def test_only_the_question_is_changed_and_within_the_radius() -> None:
    model, met = zoo.tiny_model(), []
    rows = answer_rows(model, zoo.tokenizer(), zoo.corpus()["forget"])
    mean_logprobs(model, rows)
    plain = block_outputs(model, rows)[1]

    def meet(_module: Any, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        met.append((inputs[0] if inputs else named["hidden_states"]).detach())

    handle = blocks(model)[2].register_forward_pre_hook(meet, with_kwargs=True)
    with frozen(model):
        ascended(model, rows, block=1, radii=(0.1, 0.3), steps=3)
    handle.remove()
    shares = torch.stack([(changed - plain).norm(dim=-1) / plain.norm(dim=-1) for changed in met])
    for i, row in enumerate(rows):
        assert float(shares[:, i, row.start :].max()) == 0
        assert float(shares[2:, i, : row.start].min()) > 0  # the first two passes see no change yet
        assert 0.05 < float(shares[:6, i].max()) <= 0.1 + 1e-5
        assert 0.2 < float(shares[:, i].max()) <= 0.3 + 1e-5


def test_the_curve_rises_from_the_probability_without_change() -> None:
    model, corpus = zoo.tiny_model(), zoo.corpus()
    (found,) = latent(model, zoo.tokenizer(), corpus, radii=(0.1, 0.5))
    rows = answer_rows(model, zoo.tokenizer(), corpus["forget"])
    with torch.no_grad():
        plain = mean_logprobs(model, rows).exp().mean().item()
    radii, means = zip(*found.curve, strict=True)
    assert radii == (0.0, 0.1, 0.5) and means[0] == pytest.approx(plain, rel=1e-4)
    assert means[0] < means[1] < means[2] == pytest.approx(sum(found.values) / 6)
    assert found.needs_control and found.about["block"] == 1


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_rows_are_independent_of_company_and_padding(architecture: str) -> None:
    model, settings = zoo.tiny_model(architecture), {"block": 1, "radii": (0.1,), "steps": 2}
    rows = answer_rows(model, zoo.tokenizer(), zoo.corpus()["forget"])
    with frozen(model):
        together = ascended(model, rows, **settings)
        assert (together[1] > together[0]).all()
        for i, row in enumerate(rows):
            alone = ascended(model, [row], **settings)
            assert_close(alone[:, 0], together[:, i], rtol=1e-3, atol=1e-4)


def test_mistakes() -> None:
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus()
    for wrong, message in (
        ({"block": 3}, "block must be between 0 and 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"radii": (0.2, 0.1)}, r"radii must be one or more ascending numbers; got \[0.2, 0.1\]"),
        ({"radii": ()}, "radii must be one or more"),
        ({"radii": (0.0,)}, "radii must be above 0"),
    ):
        with pytest.raises(ExpungeError, match=message):
            latent(model, tokenizer, corpus, **wrong)  # type: ignore[arg-type]
    text = Example(kind="text", prompt="", completion="In the town of Arvo0.")
    with pytest.raises(CannotRun, match="has plain texts alone"):
        latent(model, tokenizer, Corpus({"forget": (text,)}))
