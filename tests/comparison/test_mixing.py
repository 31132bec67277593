"""Mixtures of two models: exact ends, exact middle, in place, nothing copied that is alike."""

import copy

import pytest
import torch

import zoo
from expunge.comparison.mixing import _changed, mixing
from expunge.core.checks import ExpungeError


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(a, b):
    return all(torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)) for name in a)


@pytest.fixture
def pair():
    start = zoo.tiny_model(seed=0)
    unlearned = copy.deepcopy(start)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in unlearned.named_parameters():
            if "down_proj" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return start, unlearned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_ends_are_bit_exact(pair, dtype):
    start, unlearned = (model.to(dtype) for model in pair)
    with torch.no_grad():
        start.model.layers[0].mlp.down_proj.weight[0, 0] = -0.0  # 1 * -0 + 0 * x would be +0
    before, after = weights(start), weights(unlearned)
    with mixing(start, unlearned) as mix:
        for alpha, expected in ((1.0, after), (0.0, before), (0.5, None), (1, after), (0, before)):
            mix(alpha)
            if expected is not None:
                assert same_bits(weights(start), expected)
        mix(0.3)
    assert same_bits(weights(start), before)  # itself again
    assert same_bits(weights(unlearned), after)


@pytest.mark.parametrize(("dtype", "wide"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_between_the_ends(pair, dtype, wide):
    start, unlearned = (model.to(dtype) for model in pair)
    before, after = weights(start), weights(unlearned)
    with mixing(start, unlearned) as mix:
        mix(0.3)
        for name, tensor in start.state_dict().items():
            expected = (0.7 * before[name].to(wide) + 0.3 * after[name].to(wide)).to(dtype)  # cast once
            torch.testing.assert_close(tensor, expected, rtol=1e-12 if dtype == torch.float64 else 0, atol=0)


def test_what_is_alike_is_not_copied(pair):
    start, unlearned = pair

    changed = [here.data_ptr() for here, _, _ in _changed(start, unlearned)]
    assert changed == [layer.mlp.down_proj.weight.data_ptr() for layer in start.model.layers]
    pointers = {name: t.data_ptr() for name, t in start.state_dict().items()}
    with mixing(start, unlearned) as mix:
        mix(0.5)
        assert pointers == {name: t.data_ptr() for name, t in start.state_dict().items()}  # in place
        norm = start.model.norm.weight
        with torch.no_grad():
            norm.fill_(7)
        mix(0.2)
        assert (norm == 7).all()  # alike at the start, so never touched


def test_tied_weights_are_mixed_once():
    start = zoo.tiny_model(seed=0, tie_word_embeddings=True)
    unlearned = zoo.tiny_model(seed=1, tie_word_embeddings=True)
    expected = 0.75 * start.lm_head.weight.detach().clone() + 0.25 * unlearned.lm_head.weight.detach()
    with mixing(start, unlearned) as mix:
        mix(0.25)
        torch.testing.assert_close(start.lm_head.weight.detach(), expected, rtol=0, atol=0)
        assert start.lm_head.weight is start.model.embed_tokens.weight


def test_errors(pair):
    start, unlearned = pair
    with pytest.raises(ExpungeError, match="alpha must be between 0 and 1"), mixing(start, unlearned) as mix:
        mix(1.1)
    with pytest.raises(ExpungeError, match=r"only models of one shape .*dtype="), mixing(start, unlearned.bfloat16()):
        pass
    with pytest.raises(ExpungeError, match="only models of one shape"), mixing(start, zoo.tiny_model("gpt2")):
        pass
