"""Which matrices there are to adapt, on every architecture."""

import pytest
import torch
from torch import nn

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.anatomy import blocks, down_projection, head
from expunge.models.matrices import block_of, down_projections, linear_layers, shape_of, target_matrices, uncovered
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.unlearn import unlearn


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
    assert (
        {id(modules[name.removesuffix(".weight")]) for name in down_projections(model, 1)}
        == down
        <= {id(modules[name]) for name in mlp}
    )
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


@pytest.mark.parametrize(
    ("family", "settings", "trained"),
    [
        ("mixtral", {"num_local_experts": 4}, ["mlp.experts.down_proj"]),
        (
            "qwen2_moe",
            {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
            ["mlp.experts.down_proj", "mlp.shared_expert.down_proj.weight"],
        ),
        ("granitemoe", {"num_local_experts": 4}, ["block_sparse_moe.experts.down_proj"]),
    ],
)
def test_rmu_trains_the_down_projections_of_experts(family: str, settings: dict[str, int], trained: list[str]) -> None:
    """Mixtral is one of the models of its paper."""
    model = zoo.tiny_model(family, num_experts_per_tok=2, **settings)
    wanted = [f"model.layers.{block}.{name}" for block in (0, 1) for name in trained]
    assert list(down_projections(model, 1)) == wanted
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plan = plan_unlearning(model, *split_settings({"method": "rmu", "layer": 1}))
    assert plan.trained_parameters(model) == sum(before[name].numel() for name in wanted)
    unlearn(model, zoo.tokenizer(), zoo.corpus(), method="rmu", layer=1, epochs=2, batch_size=3, learning_rate=1e-3)
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == wanted
    with pytest.raises(
        ExpungeError, match=r"experts here .* that no adapter goes on\. .*targets='\\\.\(0\|1\)\\\.\.\*attn'"
    ):
        plan_unlearning(model, *split_settings({"method": "rmu", "layer": 1, "adapter": "lora"}))
    named = {"method": "rmu", "layer": 1, "adapter": "lora", "targets": r"\.(0|1)\..*attn"}
    assert len(plan_unlearning(model, *split_settings(named)).matrices) == 8
    with pytest.raises(ExpungeError, match=r"no linear layer \(experts .* Use unit=weight or unit=matrix"):
        down_projection(zoo.tiny_model("mixtral", num_local_experts=4).model.layers[0])


def test_advice_for_unknown_blocks_names_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.models.anatomy._DOWN_PROJECTIONS", ())
    with pytest.raises(ExpungeError, match=r"mask=<file> .* adapter=lora targets=<expression>"):
        down_projections(zoo.tiny_model(), 1)
