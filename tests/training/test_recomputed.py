"""Activations that are computed again in the backward pass: less is kept, and gradients are the same bits."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import zoo
from expunge.training import recomputed as module
from expunge.training.recomputed import recomputed


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
