"""Layouts: the right parameters of every architecture, cut along the right dimension."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import zoo
from expunge.core.checks import ExpungeError
from expunge.localize.model_units import layout
from expunge.masks.mask_fingerprint import kind_of
from expunge.models.anatomy import blocks, down_projection

DOWN = {
    "gpt2": "transformer.h.{}.mlp.c_proj.weight",
    "gpt_neo": "transformer.h.{}.mlp.c_proj.weight",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight",
    "phi": "model.layers.{}.mlp.fc2.weight",
}


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_value_vectors_are_the_channels_of_the_down_projection(architecture):
    model = zoo.tiny_model(architecture)
    found = layout(model)
    name = DOWN.get(architecture, "model.layers.{}.mlp.down_proj.weight")
    assert list(found.parts) == [name.format(i) for i in range(3)]
    channels = model.config.n_inner or 128 if architecture == "gpt2" else 48
    assert set(found.groups.values()) == {channels}
    # Zeroing one channel's weights takes exactly that channel's contribution away.
    for part_name, part in found.parts.items():
        block = blocks(model)[int(part_name.split(".")[2])]
        down = down_projection(block)
        inputs = torch.zeros(1, 1, channels)
        inputs[..., 5] = 1.0
        with torch.no_grad():
            before = down(inputs) - down(torch.zeros_like(inputs))
            down.weight.index_fill_(part.dim, torch.tensor([5]), 0.0)
            after = down(inputs) - down(torch.zeros_like(inputs))
        assert before.abs().sum() > 0 and after.abs().sum() == 0


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_a_neuron_is_the_channel_with_all_that_makes_it(architecture):
    model = zoo.tiny_model(architecture)
    found = layout(model, unit="neuron")
    first = [name for name, part in found.parts.items() if part.group == next(iter(found.groups))]
    gated = any("gate_proj" in name for name in first)
    biased = any(name.endswith(".bias") for name in first)
    assert len(first) == 3 if gated else len(first) == 2 + biased
    # With the rows of one neuron at 0, its channel is 0 whatever comes in.
    block = blocks(model)[0]
    parameters = dict(model.named_parameters())
    seen = []
    handle = down_projection(block).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for name in first:
            if kind_of(name) in ("gate", "up"):
                parameters[name].index_fill_(found.parts[name].dim, torch.tensor([7]), 0.0)
        model(input_ids=torch.tensor([[5, 6, 7, 8]]))
    handle.remove()
    assert seen[0][..., 7].abs().max() == 0 and seen[0][..., 8].abs().max() > 0


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_sets_of_modules(architecture):
    model = zoo.tiny_model(architecture)
    names = {
        modules: set(layout(model, unit="weight", modules=modules).parts)
        for modules in ("linear", "mlp", "down", "attention", "all")
    }
    assert names["linear"] == names["mlp"] | names["attention"] and not names["mlp"] & names["attention"]
    assert names["down"] < names["mlp"] and {kind_of(name) for name in names["down"]} == {"down"}
    assert {kind_of(name) for name in names["mlp"]} <= {"gate", "up", "down"}
    assert {kind_of(name) for name in names["attention"]} <= {"q", "k", "v", "qkv", "o"}
    assert {"o", "up", "down"} <= {kind_of(name) for name in names["linear"]}
    assert names["all"] == {name for name, _ in model.named_parameters()}
    assert {"norm", "embedding"} <= {kind_of(name) for name in names["all"]}
    assert "other" not in {kind_of(name) for name in names["all"]}
    assert set(layout(model, unit="matrix", modules=["down", "attention"]).parts) == names["down"] | names["attention"]
    assert set(layout(model, unit="matrix").parts) == names["linear"]


def test_rows_of_a_transposed_matrix_are_its_outputs():
    assert {p.dim for p in layout(zoo.tiny_model("gpt2"), unit="weight").parts.values()} == {1}
    assert {p.dim for p in layout(zoo.tiny_model("llama"), unit="weight").parts.values()} == {0}


def test_tied_tensors_count_once():
    model = zoo.tiny_model("llama", tie_word_embeddings=True)
    names = list(layout(model, unit="weight", modules="all").parts)
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names


def test_patterns():
    model = zoo.tiny_model("llama")
    found = layout(model, unit="weight", modules=[r"layers\.1\..*q_proj", r"norm"])
    assert {kind_of(name) for name in found.parts} == {"q", "norm"}
    assert list(layout(model, modules=r"layers\.[12]\.").parts) == [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
    ]
    with pytest.raises(ExpungeError, match=r"'layer\.9' matches the name of no parameter; they go from model\.embed"):
        layout(model, unit="weight", modules=r"layer.9")
    with pytest.raises(ExpungeError, match="matches the name of no down-projection"):
        layout(model, modules="q_proj")
    with pytest.raises(ExpungeError, match="is not a regular expression"):
        layout(model, unit="weight", modules="*.mlp")
    with pytest.raises(ExpungeError, match="empty list"):
        layout(model, unit="weight", modules=[])
    with pytest.raises(ExpungeError, match=r"unit=neuron is in the MLPs, so modules is mlp, .* got attention"):
        layout(model, unit="neuron", modules="attention")


def test_an_mlp_that_is_not_known_can_be_named():
    model = zoo.tiny_model("llama")
    for block in blocks(model):
        block.mlp.mystery = block.mlp.down_proj
        del block.mlp.down_proj
        block.mlp.forward = lambda x, mlp=block.mlp: mlp.mystery(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    with pytest.raises(ExpungeError, match=r"cannot identify .* mlp\.gate_proj, mlp\.up_proj, mlp\.mystery\..*down_p"):
        layout(model)
    found = layout(model, unit="neuron", down_projection="mlp.mystery")
    assert "model.layers.0.mlp.mystery.weight" in found.parts and len(found.parts) == 9
    with pytest.raises(ExpungeError, match=r"'mlp\.nothing' is not the MLP's down-projection"):
        layout(model, down_projection="mlp.nothing")


def test_experts_in_one_tensor_are_not_passed_over():
    config = AutoConfig.for_model(
        "mixtral", **{**zoo.SIZES, "num_local_experts": 2, "num_experts_per_tok": 1, "vocab_size": 40}
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ExpungeError, match=r"no linear layer's weight .* Say by patterns"):
        layout(model, unit="weight")
    assert any("experts" in name for name in layout(model, unit="weight", modules="experts").parts)


def test_gate_and_up_in_one_matrix_are_refused():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.ModuleDict({"gate_up_proj": nn.Linear(4, 12), "down_proj": nn.Linear(6, 4)})

    from expunge.models.anatomy import up_projections

    with pytest.raises(ExpungeError, match=r"has its 6 channels as outputs, .* \[12, 4\]\. Use unit=value_vector"):
        up_projections(Block())
