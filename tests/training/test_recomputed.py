"""Activations that are computed again in the backward pass: less is kept, and gradients are the same bits."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel

import zoo
from expunge.adapters.lora import lora
from expunge.models.matrices import target_matrices
from expunge.training import recomputed as module
from expunge.training.recomputed import recomputed
from expunge.training.unlearn import unlearn
from made_masks import made_mask


def gradients(model: torch.nn.Module, *, on: bool, autocast: bool) -> list[Tensor]:
    model.zero_grad()
    ids = torch.arange(5, 17)[None].repeat(2, 1)
    with recomputed() if on else nullcontext(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_gradients_are_the_same_bits(name: str, autocast: bool) -> None:
    model = zoo.tiny_model(name).eval()
    plain, spared = (gradients(model, on=on, autocast=autocast) for on in (False, True))
    assert plain
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_gradients_of_lora_are_the_same_bits(name: str) -> None:
    model = zoo.tiny_model(name).eval()
    adapted = lora(model, target_matrices(model, "all-linear"), 0, rank=2).model
    for layer, parameter in adapted.named_parameters():
        if ".lora_B." in layer:  # else the gradients of A are 0
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(layer)))
    plain, spared = (gradients(adapted, on=on, autocast=False) for on in (False, True))
    assert any(gradient.any() for gradient in plain)
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


def test_gradients_are_the_same_bits_under_ddp(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(zoo.tiny_model().eval())
        plain, spared = (gradients(model, on=on, autocast=False) for on in (False, True))
    finally:
        torch.distributed.destroy_process_group()
    assert plain
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


@pytest.mark.parametrize("kind", ["all weights", "lora", "mask", "micro-batches", "bfloat16", "rmu"])
def test_a_run_ends_with_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "all weights": {},
        "lora": {"adapter": "lora", "rank": 4},
        "mask": {"mask": made_mask(zoo.tiny_model())},
        "micro-batches": {"micro_batch_size": 1},
        "bfloat16": {"precision": "bfloat16"},
        "rmu": {"method": "rmu", "layer": 1},
    }[kind]
    how = {"method": "npo", "epochs": 1, "batch_size": 3, "learning_rate": 1e-3, "precision": "float32"}

    def weights() -> dict[str, Tensor]:
        run = unlearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), **{**how, **settings})
        return dict(run.model.named_parameters())

    used = []
    monkeypatch.setattr("expunge.training.trainer.recomputed", lambda: used.append(1) or recomputed())
    spared = weights()
    assert used
    monkeypatch.setattr("expunge.training.trainer.recomputed", nullcontext)
    plain = weights()
    assert any(not torch.equal(p, plain[name]) for name, p in zoo.tiny_model().named_parameters())
    assert all(torch.equal(spared[name], p) for name, p in plain.items())


@pytest.mark.parametrize("frozen", ["norm", "mlp.down_proj", "q_proj"])
def test_gradients_are_the_same_bits_where_weights_are_frozen(frozen: str) -> None:
    model = zoo.tiny_model().eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    plain, spared = (gradients(model, on=on, autocast=False) for on in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


def kept(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Tensor]) -> list[tuple[int, ...]]:
    """Shapes of the computed tensors that are kept, each storage once."""
    found: dict[int, Tensor] = {}
    original = module._packed

    def noting(tensor: Tensor) -> object:
        result = original(tensor)
        if isinstance(result, Tensor) and tensor.grad_fn is not None:
            found[result.untyped_storage().data_ptr()] = result
        return result

    monkeypatch.setattr(module, "_packed", noting)
    with recomputed():
        compute()
    return sorted(tuple(t.shape) for t in found.values())


def test_a_gated_product_keeps_its_two_inputs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, down = torch.ones(3, 4, requires_grad=True), torch.ones(7, 4), torch.ones(4, 7, requires_grad=True)

    def compute() -> Tensor:
        return F.linear(F.silu(F.linear(x, w)) * F.linear(x, 2 * w), down)

    # gate and up, [3, 7] each; neither the activation nor the product that the last layer reads.
    assert [shape for shape in kept(monkeypatch, compute) if shape == (3, 7)] == [(3, 7)] * 2


def test_what_nothing_else_keeps_is_kept() -> None:
    x = torch.ones(3, requires_grad=True)
    total = x + 1  # nothing keeps the inputs of a sum, so there is no way to it
    half = total * 0.5  # nor to this: a product with a constant keeps the constant alone
    assert module._packed(total).grad_fn is None  # type: ignore[union-attr]
    assert isinstance(module._packed(total), Tensor)
    assert isinstance(module._packed(half), Tensor)
    assert isinstance(module._packed(total * total), module._Way)


@pytest.mark.parametrize("squarings", [2, 3, 4, 7, 18])
def test_a_result_that_feeds_both_factors_is_kept_before_it_costs_much(
    squarings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    products = 0
    original = module._value

    def counting(node: Any) -> Tensor:
        nonlocal products
        products += 1
        return original(node)

    monkeypatch.setattr(module, "_value", counting)
    x = torch.ones(3, requires_grad=True)
    with recomputed():
        y = x
        for _ in range(squarings):
            y = y * y
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0**squarings))
    # Each product reads both factors, which take 1, 3 or 7 operations, and the fourth result is kept: 0.
    assert products == sum(2 * (1, 3, 7, 0)[n % 4] for n in range(squarings - 1))


def test_a_long_way_is_not_gone() -> None:
    x = torch.ones(4, requires_grad=True)
    with recomputed():
        y = x * x
        for _ in range(3000):
            y = y.view(2, 2).view(4)
        z = y * y
    z.sum().backward()
    assert torch.equal(x.grad, torch.full((4,), 4.0))


def test_a_second_derivative_goes_through_it() -> None:
    # d2/dx2 of silu(x) ** 2 by the plain graph and by the spared one.
    found = []
    for on in (False, True):
        x = torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True)
        with recomputed() if on else nullcontext():
            y = (F.silu(x) * F.silu(x)).pow(2).sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        found.append(torch.autograd.grad(first.sum(), x)[0])
    assert torch.equal(*found)


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny_model().eval()
    plain = gradients(model, on=False, autocast=False)
    original = module._unpacked
    monkeypatch.setattr(module, "_unpacked", lambda k: original(k) * (1.5 if isinstance(k, module._Way) else 1))
    spared = gradients(model, on=True, autocast=False)
    assert not all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


def test_a_graph_that_is_never_run_backward_is_freed() -> None:
    x = torch.ones(3, requires_grad=True)
    with recomputed():
        y = torch.exp(x * 1)  # keeps its own result
    seen = weakref.ref(y.untyped_storage())
    gc.disable()
    try:
        del y
        assert seen() is None
    finally:
        gc.enable()


def test_saved_tensors_hooks_of_torch_show_the_graph() -> None:
    """What this rests on: an input that an operation keeps arrives with the node that made it."""
    names = []
    with saved_tensors_hooks(lambda t: names.append(t.grad_fn and t.grad_fn.name()) or t, lambda t: t):
        x = torch.ones(3, requires_grad=True) * 1
        F.silu(x).sum()
    assert "MulBackward0" in names
