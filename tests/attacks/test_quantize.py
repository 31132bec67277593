"""Quantization to few bits and back."""

import copy

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import zoo
from expunge.attacks.quantize import NF4, int8, nf4, quantize, stability
from expunge.core.checks import ExpungeError
from expunge.models.matrices import linear_layers


def test_nf4_by_hand():
    # scale 2: shares 1, -0.5, 0.04, 0.03 -> nearest levels 1, -0.525, 0.0796, 0 (0.0398 lies half way)
    found = nf4(torch.tensor([[2.0, -1.0], [0.08, 0.06]]))
    assert_close(found, torch.tensor([[2.0, -1.0501462], [0.1591606, 0.0]]))


def test_int8_by_hand():
    # row scale 1.27 / 127 = 0.01: 0.504 -> 50 steps; row scale 0 stays 0
    assert_close(int8(torch.tensor([[1.27, 0.504], [0.0, 0.0]])), torch.tensor([[1.27, 0.50], [0.0, 0.0]]))


def test_nf4_is_the_nearest_level_of_each_block_of_64():
    weight = torch.randn(7, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels, expected = np.array(NF4), []
    flat = weight.flatten().numpy()
    for at in range(0, len(flat), 64):
        block = flat[at : at + 64]
        scale = np.abs(block).max()
        expected += [scale * levels[np.abs(levels - value / scale).argmin()] for value in block]
    assert_close(nf4(weight), torch.tensor(expected).view(7, 30))
    widest = np.diff(levels).max() / 2
    assert float((nf4(weight) - weight).abs().max()) <= widest * float(weight.abs().max()) + 1e-12


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("bits", [4, 8])
def test_only_linear_layers_of_the_blocks_change_and_twice_is_once(name, bits):
    model = zoo.tiny_model(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    once = quantize(copy.deepcopy(model), bits=bits).state_dict()
    inner = {f"{layer}.weight" for layer in linear_layers(model)}
    changed = {k for k in before if not torch.equal(before[k], once[k])}
    assert changed == inner & before.keys() and changed
    twice = quantize(quantize(copy.deepcopy(model), bits=bits), bits=bits).state_dict()
    assert all(torch.allclose(once[k], twice[k], atol=1e-7) for k in once)


def test_rows_are_outputs_whichever_way_a_weight_is_kept():
    model = zoo.tiny_model("gpt2")
    name, module = next(iter(linear_layers(model).items()))
    expected = int8(module.weight.detach().T.clone()).T
    quantize(model, bits=8)
    assert_close(linear_layers(model)[name].weight.detach(), expected)


def test_other_numbers_of_bits_are_refused():
    with pytest.raises(ExpungeError, match="4 or 8 bits; got bits=3"):
        quantize(zoo.tiny_model(), bits=3)


def test_stability_falls_as_knowledge_returns():
    assert stability(0.2, 0.8) == 0.25 and stability(0.2, 0.1) == 1 and stability(0.2, 0.0) == 1
    assert stability(0.0, 0.5) == 0 and stability(0.0, 0.0) == 1
