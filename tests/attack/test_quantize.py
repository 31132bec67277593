"""Quantization to few bits and back."""

import copy

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import zoo
from expunge.attack.attacks.quantize import FORMS, NF4, int8, nf4, q4_0, q8_0, quantize, round_weights
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
@pytest.mark.parametrize("form", [form for form in FORMS if form != "bitsandbytes"])
def test_only_linear_layers_of_the_blocks_change_and_twice_is_once(name, form):
    model = zoo.tiny_model(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    once = round_weights(copy.deepcopy(model), form).state_dict()
    inner = {f"{layer}.weight" for layer in linear_layers(model)}
    changed = {k for k in before if not torch.equal(before[k], once[k])}
    assert changed == inner & before.keys() and changed
    twice = round_weights(round_weights(copy.deepcopy(model), form), form).state_dict()
    assert all(torch.allclose(once[k], twice[k], atol=1e-3 if form in ("q4_0", "q8_0") else 1e-7) for k in once)


def test_rows_are_outputs_whichever_way_a_weight_is_kept():
    model = zoo.tiny_model("gpt2")
    name, module = next(iter(linear_layers(model).items()))
    expected = int8(module.weight.detach().T.clone()).T
    round_weights(model, "int8")
    assert_close(linear_layers(model)[name].weight.detach(), expected)


def test_other_forms_are_refused():
    with pytest.raises(ExpungeError, match="no form of quantization is called 'int3'"):
        quantize(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), forms=("int3",))


def test_all_forms_and_one_that_needs_what_is_not_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model, tokenizer, corpus = zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(n_forget=2)
    leaks = {leak.name: leak for leak in quantize(model, tokenizer, corpus, forms="all")}
    assert [*leaks] == [f"quantize.{form}" for form in FORMS] and leaks["quantize.nf4"].facts == (0, 1)
    absent = leaks["quantize.bitsandbytes"]
    assert absent.facts == () and absent.not_run == "bitsandbytes is not installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    (here,) = quantize(model, tokenizer, corpus, forms=("bitsandbytes",))
    assert here.not_run == "bitsandbytes needs a GPU, and the model is on cpu"
    with pytest.raises(ExpungeError, match="no form of quantization is called 'al'"):
        quantize(model, tokenizer, corpus, forms=("al",))


@pytest.mark.gpu
def test_bitsandbytes_rounds_to_the_levels_of_nf4():
    pytest.importorskip("bitsandbytes", reason="needs the package bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).cuda()
    # float32 kernels choose the same levels; a value on the border of two may fall to either.
    same = torch.isclose(FORMS["bitsandbytes"](weight), nf4(weight), atol=1e-5)
    assert same.float().mean() > 0.999


def test_gguf_blocks_by_hand():
    # Q8_0: largest 1.27, step 0.01 (in float16 0.0100021): 0.504 -> 50 steps, -0.125 -> -13 (half away from zero).
    block = torch.zeros(1, 32)
    block[0, :3] = torch.tensor([1.27, 0.504, -0.125])
    step = torch.tensor(0.01).half().float()
    assert_close(q8_0(block)[0, :4], torch.tensor([127.0, 50.0, -13.0, 0.0]) * step, rtol=0, atol=2e-2 * float(step))
    # Q4_0: the value of largest size, -4, is -8 steps of 0.5; 1.9 / 0.5 + 8.5 = 12.3 -> 12 - 8 = 4 steps.
    block[0, :3] = torch.tensor([-4.0, 1.9, 4.0])
    assert_close(q4_0(block)[0, :4], torch.tensor([-4.0, 2.0, 3.5, 0.0]))


@pytest.mark.parametrize(("name", "rounded"), [("Q8_0", q8_0), ("Q4_0", q4_0)])
@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-4])
def test_gguf_blocks_are_those_of_its_package(name, rounded, scale):
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)) * scale
    kind = gguf.GGMLQuantizationType[name]
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
    assert np.array_equal(rounded(weight).numpy(), expected)
