"""Shrink and perturb, and the runs that start with it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import expunge
import zoo
from expunge.core.batch import collate
from expunge.core.checks import ExpungeError
from expunge.data.tokenizing import encode
from expunge.masks.mask import Mask
from expunge.models.lowrank import without_known_warnings
from expunge.models.patch import Patch
from expunge.objectives.combine import Perturbation
from expunge.training.callbacks import Clock
from expunge.training.masked import masked
from expunge.training.perturbed import perturb, perturbed
from made_masks import made_mask

HOW = Perturbation(perturbation=0.4, noise=0.5)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def unlearn(folder: Path | None = None, **changes: Any) -> expunge.Run:
    settings = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2, "seed": 5, **changes}
    model = settings.pop("model", None) or zoo.tiny_model()
    return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), method="undo", output_dir=folder, **settings)


# The weights ---------------------------------------------------------------------------------------------------------


def test_by_hand():
    # A vector is only shrunk: (1 - 0.25) * 8 = 6. A matrix of zeros holds 0.25 * 2 * u, and the bound of u is
    # sqrt(6 / (20 + 4)) = 1/2: values up to 1/4.
    how = Perturbation(perturbation=0.25, noise=2.0)
    assert torch.equal(perturbed("norm", torch.tensor([8.0, -4.0]), how, 0), torch.tensor([6.0, -3.0]))
    noise = perturbed("matrix", torch.zeros(20, 4), how, 0)
    assert 0.2 < noise.abs().max() <= 0.25


def test_the_noise_is_uniform_and_is_added():
    weight = torch.linspace(-3, 3, 300 * 500).reshape(300, 500)
    noise = (perturbed("w", weight, HOW, 1) - 0.6 * weight) / (0.4 * 0.5)
    bound = math.sqrt(6 / 800)
    assert noise.abs().max() <= bound * (1 + 1e-4)
    quarters = torch.histc(noise, bins=4, min=-bound, max=bound) / noise.numel()
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), atol=0.005, rtol=0)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), weight.flatten()]))[0, 1]) < 0.01


def test_stacked_matrices_have_the_noise_of_one():
    noise = perturbed("experts", torch.zeros(50, 20, 4), Perturbation(perturbation=1.0, noise=1.0), 0)
    assert 0.49 < noise.abs().max() <= 0.5


def test_a_perturbation_of_0_changes_no_bit():
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(perturbed("w", weight, Perturbation(perturbation=0, noise=1.0), 0), weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_round_the_same_value(dtype: torch.dtype):
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = perturbed("w", weight, HOW, 0)
    assert found.dtype == dtype
    exact = perturbed("w", weight.double(), HOW, 0)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8 if dtype == torch.bfloat16 else 0, atol=1e-6)


def test_noise_follows_from_seed_and_name():
    zeros = torch.zeros(5, 5)
    first = perturbed("a", zeros, HOW, 0)
    assert torch.equal(first, perturbed("a", zeros, HOW, 0))
    for name, seed in (("b", 0), ("a", 1)):
        assert not (first == perturbed(name, zeros, HOW, seed)).any()


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
@pytest.mark.parametrize("unit", ["weight", "matrix", "value_vector"])
def test_a_mask_is_perturbed_like_the_whole_and_nothing_outside(architecture: str, unit: str):
    whole, part = zoo.tiny_model(architecture), zoo.tiny_model(architecture)
    mask, before = made_mask(part, unit), weights(part)  # type: ignore[arg-type]
    perturb(whole, HOW, seed=3)
    with masked(part, mask) as selected:
        perturb(part, HOW, seed=3, selected=selected)
    expected = weights(whole)
    named = dict(part.named_parameters(remove_duplicate=False))
    for name, p in part.named_parameters():
        own = [other for other in mask.layout.parts if named[other] is p]
        inside = mask.dense(own[0]) if own else torch.zeros(p.shape, dtype=torch.bool)
        assert torch.equal(p[inside], expected[name][inside]) and torch.equal(p[~inside], before[name][~inside]), name
        if p.dim() > 1 and inside.any():  # vectors may start as zeros
            assert (p != before[name])[inside].float().mean() > 0.9, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturbation": 1.5}, "perturbation must be between 0 and 1; got 1.5"),
        ({"perturbation": math.nan}, "perturbation must be between 0 and 1; got nan"),
        ({"noise": -0.1}, "noise must be at least 0; got -0.1"),
        ({"adapter": "lora"}, "undo perturbs the model's own weights .* an adapter leaves them as they are"),
    ],
)
def test_refused(changes: dict[str, Any], message: str):
    model = zoo.tiny_model()
    before = weights(model)
    with pytest.raises(ExpungeError, match=message):
        unlearn(model=model, **changes)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_model_with_an_adapter_of_its_own_is_refused():
    with without_known_warnings():
        model = get_peft_model(zoo.tiny_model(), LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(ExpungeError, match="undo perturbs the model's own weights"):
        unlearn(model=model)


# The runs ------------------------------------------------------------------------------------------------------------


def start_of(**changes: Any) -> nn.Module:
    """The model of a run whose steps change nothing."""
    return unlearn(learning_rate=1e-30, weight_decay=0.0, **changes).model


def test_a_run_starts_from_the_perturbed_model():
    expected = zoo.tiny_model()
    perturb(expected, Perturbation(perturbation=0.3, noise=0.2), seed=5)
    found = start_of(perturbation=0.3, noise=0.2)
    for p, q in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reference", ["precomputed", "model"])
def test_it_is_compared_with_the_start_model_as_it_was(reference: str):
    """Unperturbed and with beta 0 nothing is to be learned; perturbed, both divergences are those by hand."""
    still = unlearn(reference=reference, perturbation=0.0, beta=0.0).history[0]
    assert still["forget_loss"] == pytest.approx(0, abs=1e-6) and still["retain_loss"] == pytest.approx(0, abs=1e-6)
    first = unlearn(reference=reference, perturbation=0.5, beta=0.0, epochs=1, batch_size=6).history[0]
    student = zoo.tiny_model()
    perturb(student, Perturbation(perturbation=0.5, noise=0.1), seed=5)
    batch = collate(encode(zoo.corpus()["forget"], zoo.tokenizer()))
    now, before = (
        m(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].detach().double().log_softmax(-1)
        for m in (student, zoo.tiny_model())
    )
    tokens = batch["labels"][:, 1:] != -100
    by_hand = (before.exp() * (before - now)).sum(-1)[tokens].mean()
    assert by_hand > 1e-4
    assert first["forget_loss"] == pytest.approx(float(by_hand), rel=1e-3)


def test_the_manifest_says_how_much():
    arguments = unlearn(perturbation=0.3).manifest.arguments
    assert (arguments["perturbation"], arguments["noise"]) == (0.3, 0.1)


def test_it_is_taught_what_it_may_know():
    run = unlearn(epochs=40, perturbation=0.6)
    assert run.history[-1]["retain_loss"] < 0.5 * run.history[0]["retain_loss"]


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = unlearn(tmp_path / "whole", checkpoint_every=0.5)

    class Killed(Exception):
        pass

    original = Clock.on_step_end

    def kill(self, args, state, control, **more):
        original(self, args, state, control, **more)
        if state.global_step == len(whole.history) // 2 + 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "on_step_end", kill)
        with pytest.raises(Killed):
            unlearn(tmp_path / "cut", checkpoint_every=0.5)
    resumed = unlearn(tmp_path / "cut", checkpoint_every=0.5, resume=True)
    assert list(resumed.history) == list(whole.history)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_patch_takes_the_noise_back_too(tmp_path: Path):
    start = zoo.tiny_model()
    mask: Mask = made_mask(start, "weight")
    before = weights(start)
    run = unlearn(tmp_path / "run", model=start, mask=mask, patch=True)
    assert any(not torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    Patch.load(tmp_path / "run/patch.safetensors").revert(run.model)
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())
