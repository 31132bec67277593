"""Gradients of slices: those of the dense layer, gathered; and the layer is itself again afterwards."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from expunge.training.sliced import route, slice_linear, slices_linear

INDEX = torch.tensor([1, 4], dtype=torch.int32)


def layer(kind: str, *, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Linear(5, 6, bias=bias) if kind == "linear" else Conv1D(6, 5)
    return made.double()


@pytest.mark.parametrize(("kind", "bias"), [("linear", True), ("linear", False), ("conv1d", True)])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_the_gradient_is_the_dense_one_gathered(kind: str, bias: bool, dim: int, shape: tuple[int, ...]) -> None:
    module, dense = layer(kind, bias=bias), layer(kind, bias=bias)
    module.weight.requires_grad_(False)
    values = nn.Parameter(module.weight.detach().index_select(dim, INDEX))
    undo = slice_linear(module, values, INDEX, dim)
    x, y = (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    x.requires_grad_(True)
    y.requires_grad_(True)
    weights = torch.randn(6, dtype=torch.float64)
    ours, theirs = module(x), dense(y)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    (ours.square() @ weights).sum().backward()
    (theirs.square() @ weights).sum().backward()
    torch.testing.assert_close(values.grad, dense.weight.grad.index_select(dim, INDEX), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-12)
    if bias:
        torch.testing.assert_close(module.bias.grad, dense.bias.grad, rtol=1e-12, atol=1e-12)
    assert module.weight.grad is None
    undo()
    assert "forward" not in vars(module)


def test_a_routed_parameter_sends_its_gradient_on() -> None:
    module = nn.LayerNorm(3, elementwise_affine=True)
    plain = copy.deepcopy(module)
    module.weight.requires_grad_(False)
    values = nn.Parameter(torch.ones(2))
    undo = route(module, "weight", values, lambda whole: whole[torch.tensor([0, 2])])
    x = torch.randn(4, 3)
    assert torch.equal(module(x), plain(x))
    (module(x) * x).sum().backward()
    (plain(x) * x).sum().backward()
    torch.testing.assert_close(values.grad, plain.weight.grad[[0, 2]])
    assert list(module.state_dict()) == ["weight", "bias"] and "weight" not in vars(module)
    undo()
    assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    module = nn.Linear(3, 3)
    module.weight.requires_grad_(False)
    route(module, "weight", nn.Parameter(torch.ones(1)), lambda whole: whole[0, :1])
    with pytest.raises(RuntimeError):
        module(torch.zeros(2, 7))
    assert "weight" not in vars(module)


def test_under_autocast_it_computes_in_half_precision_and_keeps_the_gradient_wide() -> None:
    module = nn.Linear(5, 6)
    module.weight.requires_grad_(False)
    values = nn.Parameter(module.weight.detach()[:, [1, 4]])
    slice_linear(module, values, INDEX, 1)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.ones(3, 5))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert values.grad.dtype == torch.float32
    assert torch.equal(values.grad, torch.full((6, 2), 3.0))  # three rows of ones


def test_only_plain_linear_layers_are_sliced() -> None:
    class Own(nn.Linear):
        """Might do anything with its weight."""

    assert slices_linear(nn.Linear(2, 2), "weight") and slices_linear(Conv1D(2, 2), "weight")
    assert not slices_linear(nn.Linear(2, 2), "bias") and not slices_linear(Own(2, 2), "weight")
    assert not slices_linear(nn.Embedding(2, 2), "weight")
