"""Which matrices there are to adapt, on every architecture."""

import pytest
from torch import nn

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.anatomy import blocks, down_projection, head
from expunge.models.matrices import block_of, down_projections, linear_layers, shape_of, target_matrices, uncovered


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_attention_and_mlp_are_all_linear_layers_of_the_blocks(architecture: str) -> None:
    model = zoo.tiny_model(architecture)
    whole = target_matrices(model, "all-linear")
    attention, mlp = target_matrices(model, "attention"), target_matrices(model, "mlp")
    assert {*attention} | {*mlp} == {*whole} and not {*attention} & {*mlp}
    assert len(attention) >= 3 and len(mlp) >= 3 and len(whole) == len({*whole})
    modules = dict(model.named_modules())
    assert head(model) not in [modules[name] for name in whole]
    # Every matrix of a block that is two-dimensional is one of them.
    held = {id(p) for block in blocks(model) for p in block.parameters() if p.dim() == 2}
    assert held == {id(modules[name].weight) for name in whole}
    assert {block_of(model, name) for name in whole} == {0, 1, 2}
    down = {id(down_projection(block)) for block in blocks(model)[0:2]}
    assert {id(modules[name]) for name in down_projections(model, 1)} == down <= {id(modules[name]) for name in mlp}
    for name, module in linear_layers(model).items():
        n_out, n_in = shape_of(module)
        assert n_out * n_in == module.weight.numel(), name


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_linear_layers_cover_the_blocks(architecture: str) -> None:
    assert uncovered(zoo.tiny_model(architecture)) == (0.0, None)


def test_experts_are_no_linear_layers_and_counted() -> None:
    model = zoo.tiny_model("mixtral", num_local_experts=4)
    # A block: q, o 32 x 32, k, v 16 x 32: 3072 in linear layers; experts 4 * (96 x 32 + 32 x 48), router 4 x 32: 18560.
    share, largest = uncovered(model)
    assert share == pytest.approx(18560 / (18560 + 3072)) and largest == "model.layers.0.mlp.experts.gate_up_proj"
    with pytest.raises(ExpungeError, match=r"targets='mlp' finds none of .* 85\.8% of the blocks' weights, such as"):
        target_matrices(model, "mlp")


def test_an_expression_is_looked_for_in_the_names() -> None:
    model = zoo.tiny_model()
    assert target_matrices(model, r"layers\.1\..*(q|v)_proj") == (
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    )
    with pytest.raises(ExpungeError, match=r"finds none of the 21 linear layers.*first block: model\.layers\.0\.self"):
        target_matrices(model, "query")
    with pytest.raises(ExpungeError, match="nor a regular expression"):
        target_matrices(model, "(")


def test_sizes_are_out_and_in_also_where_weights_lie_the_other_way_round() -> None:
    assert shape_of(nn.Linear(3, 5)) == (5, 3)
    layers = linear_layers(zoo.tiny_model("gpt2"))
    assert shape_of(layers["transformer.h.0.mlp.c_fc"]) == (128, 32)
