"""Every adapter with every mask, objective and architecture: it works, or it is refused before anything is computed.

What is refused is refused here one by one. What should work is configured here one by one, and trained for a step in a
choice that holds every pair of (adapter with mask, kind of objective, architecture).
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

import expunge
import zoo
from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.masks.mask import Mask
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part, Unit
from expunge.models.fingerprint import model_fingerprint
from expunge.models.matrices import down_projections, linear_layers, target_matrices
from expunge.training.masked import mask_summary
from expunge.training.plan import plan_unlearning, split_settings
from made_masks import made_mask

ADAPTERS = (None, *catalogue.names("adapters"))
MASKS: tuple[Unit | None, ...] = (None, "matrix", "weight", "value_vector")
SETTINGS = [*product(ADAPTERS, MASKS)]
KINDS = {
    "log-probabilities": ("grad_diff", "grad_ascent", "simnpo", "learn", "learn_reg"),
    "log-probabilities, compared": ("npo",),
    "tokens": ("wga", "satimp", "tnpo"),
    "alternates": ("dpo", "idk", "altpo"),
    "logits": ("ihl", "bst", "ceu", "js_uniform", "pdu"),
    "logits, compared": ("undial", "kl_min"),
    "hidden states": ("rmu", "adaptive_rmu"),
    "logits, perturbed": ("undo",),
}
"""Methods by what they read."""
OF_METHODS: dict[str, dict[str, Any]] = {
    "rmu": {"layer": 2},
    "adaptive_rmu": {"layer": 2},
    "pdu": {"eps": 1.0},
    "altpo": {"alternates": 1},
}
OF_ADAPTERS: dict[str | None, dict[str, Any]] = {
    None: {},
    "lora": {"rank": 4},
    "fila": {"rank": 4, "epsilon": "auto"},
    "vila": {"rank": 4, "epsilon": "auto"},
}


@dataclass(frozen=True)
class Case:
    """One combination."""

    adapter: str | None
    mask: Unit | None
    kind: str
    architecture: str

    @property
    def refusal(self) -> str | None:
        """What the message says where it cannot work."""
        if self.adapter is not None and self.kind == "logits, perturbed":
            return "undo perturbs the model's own weights and teaches them again, and an adapter leaves them"
        if self.adapter is None or self.mask is None:
            return None
        if self.mask != "matrix":
            return f"a mask of unit={self.mask} does not go with an adapter: the product B A changes every entry"
        if self.kind == "hidden states":  # whose own matrices are down-projections, while the mask holds attention too
            return r"the mask selects 1 parameters that the adapter is not attached to \(.*att.*\)"
        return None

    @property
    def pairs(self) -> set[tuple[Any, Any]]:
        setting = (self.adapter, self.mask)
        return {(setting, self.kind), (setting, self.architecture), (self.kind, self.architecture)}


ALL = [
    Case(adapter, mask, kind, architecture)
    for (adapter, mask), kind, architecture in product(SETTINGS, KINDS, zoo.ARCHITECTURES)
]


@cache
def chosen() -> dict[str, list[tuple[Case, str]]]:
    """The combinations that are trained by architecture, each with a method of its kind."""
    found: dict[str, list[tuple[Case, str]]] = {architecture: [] for architecture in zoo.ARCHITECTURES}
    seen: set[tuple[Any, Any]] = set()
    turns = dict.fromkeys(KINDS, 0)

    def take(case: Case) -> None:
        seen.update(case.pairs)
        found[case.architecture].append((case, KINDS[case.kind][turns[case.kind] % len(KINDS[case.kind])]))
        turns[case.kind] += 1

    for number, architecture in enumerate(zoo.ARCHITECTURES):
        for place, setting in enumerate(SETTINGS):
            kinds = [[*KINDS][(number + place + step) % len(KINDS)] for step in range(len(KINDS))]
            open_to_training = [c for kind in kinds if (c := Case(*setting, kind, architecture)).refusal is None]
            if open_to_training:
                take(max(open_to_training, key=lambda c: len(c.pairs - seen)))
    for case in ALL:  # a kind that goes with few settings is not met with every architecture yet
        if case.refusal is None and not case.pairs <= seen:
            take(case)
    return found


@cache
def start(architecture: str) -> PreTrainedModel:
    return zoo.tiny_model(architecture)


@cache
def mask_of(architecture: str, unit: Unit | None) -> Mask | None:
    """A mask in the first two blocks; of matrices: two down-projections, and one matrix of attention, fused or not."""
    model = start(architecture)
    if unit is None:
        return None
    if unit == "value_vector":
        return made_mask(model, unit)
    attention = next(name for name in target_matrices(model, "attention"))
    whole = [*down_projections(model, 1), f"{attention}.weight"]
    if unit == "weight":
        return made_mask(model, unit, "|".join(f"^{name}$" for name in whole))
    shapes = {name: tuple(model.get_parameter(name).shape) for name in whole}
    parts = {name: Part(shape, "whole", name) for name, shape in shapes.items()}
    return Mask(Layout("matrix", parts), {name: pack(torch.tensor([True])) for name in parts})


def configured(case: Case, method: str) -> int:
    """Trained numbers, as a dry run finds them."""
    model, mask = start(case.architecture), mask_of(case.architecture, case.mask)
    own = {k: v for k, v in OF_METHODS.get(method, {}).items() if k == "layer"}
    settings = {"method": method, "adapter": case.adapter, **OF_ADAPTERS[case.adapter], **own}
    plan = plan_unlearning(model, *split_settings(settings), mask=mask)
    if plan.weight_mask is not None:
        return mask_summary(model, plan.weight_mask)["weights"]
    return plan.trained_parameters(model)


def unlearned(case: Case, method: str, model: PreTrainedModel) -> expunge.Run:
    """One step on all forget rows."""
    return expunge.unlearn(
        model,
        zoo.tokenizer(),
        zoo.corpus(),
        method=method,
        adapter=case.adapter,
        mask=mask_of(case.architecture, case.mask),
        **{"epochs": 1, "batch_size": 6, "learning_rate": 1e-2, "warmup": 0},
        **OF_ADAPTERS[case.adapter],
        **OF_METHODS.get(method, {}),
    )


def test_all_methods_and_architectures_are_in_the_sweep() -> None:
    assert {*catalogue.names("methods")} - {"rt_diff"} == {method for of in KINDS.values() for method in of}
    refused = sum(case.refusal is not None for case in ALL)
    assert len(ALL) == 4 * 4 * 8 * 11 and refused == 3 * 2 * 7 * 11 + 3 * 11 + 3 * 4 * 11


def test_every_pair_that_can_work_is_trained() -> None:
    trained = [case for of in chosen().values() for case, _ in of]
    assert all(case.refusal is None for case in trained)
    wanted = {pair for case in ALL if case.refusal is None for pair in case.pairs}
    assert wanted == {pair for case in trained for pair in case.pairs}
    named = {method for of in chosen().values() for _, method in of}
    assert named == {method for of in KINDS.values() for method in of}


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_what_cannot_work_is_refused_with_its_reason_and_the_rest_is_configured(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("rows, references, importance or training before the refusal")

    for name in ("plan.run_rows", "unlearn.with_reference", "unlearn.adapter_on", "unlearn.train"):
        monkeypatch.setattr(f"expunge.training.{name}", too_late)
    model, before = start(architecture), model_fingerprint(start(architecture))
    for case in (case for case in ALL if case.architecture == architecture):
        method = KINDS[case.kind][0]
        if case.refusal is None:
            assert 0 < configured(case, method) <= sum(p.numel() for p in model.parameters()), case
            continue
        with pytest.raises(ExpungeError, match=case.refusal):
            configured(case, method)
        with pytest.raises(ExpungeError, match=case.refusal):
            unlearned(case, method, model)
    for case in (Case(*setting, "hidden states", architecture) for setting in SETTINGS if None in setting):
        with pytest.raises(ExpungeError, match="rt_diff matches another model than the start model"):
            unlearned(case, "rt_diff", model)
    assert model_fingerprint(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_what_should_work_changes_what_it_may_and_nothing_else(architecture: str) -> None:
    before = {name: p.detach().clone() for name, p in start(architecture).named_parameters()}
    for case, method in chosen()[architecture]:
        model = zoo.tiny_model(architecture)
        run = unlearned(case, method, model)
        first = run.history[0]
        if method == "npo":  # the first step sees the start model: 2 / 0.1 ln 2
            assert first["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-5)
        if method == "kl_min":
            assert first["retain_loss"] == pytest.approx(0, abs=1e-6)
        assert run.model is model and math.isfinite(run.history[-1]["loss"]), (case, method)
        assert {*dict(model.named_parameters())} == {*before} and all(p.requires_grad for p in model.parameters())
        for name, parameter in model.named_parameters():
            free = allowed(case, method, model, name)
            moved = parameter != before[name]
            assert not (moved & ~free).any(), (case, method, name)
            # One step moves what is trained, but for entries that no gradient reaches: tokens that are in no row.
            assert moved.any() or not free.any() or case.adapter is None, (case, method, name)
        assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters()), (case, method)


def allowed(case: Case, method: str, model: nn.Module, name: str) -> torch.Tensor:
    """Where a parameter may change."""
    mask, shape = mask_of(case.architecture, case.mask), model.get_parameter(name).shape
    if mask is not None:
        return mask.dense(name) if name in mask.layout.parts else torch.zeros(shape, dtype=torch.bool)
    names = down_projections(model, 2) if method in OF_METHODS and "layer" in OF_METHODS[method] else None
    if names is None and case.adapter is not None:
        names = tuple(f"{layer}.weight" for layer in linear_layers(model))
    return torch.full(shape, names is None or name in names)
