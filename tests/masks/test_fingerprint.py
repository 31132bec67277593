"""Places: layer and kind from names, and the Gini coefficient."""

import pytest

from expunge.masks.mask_fingerprint import OUTSIDE, Fingerprint, Place, gini, kind_of, layer_of, plural


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 11, "q"),
        ("model.layers.0.self_attn.k_proj.bias", 0, "k"),
        ("model.layers.0.self_attn.q_norm.weight", 0, "norm"),
        ("model.layers.0.self_attn.dense.weight", 0, "o"),
        ("model.layers.3.mlp.gate_proj.weight", 3, "gate"),
        ("model.layers.3.mlp.down_proj.weight", 3, "down"),
        ("model.layers.3.mlp.fc1.bias", 3, "up"),
        ("transformer.h.2.attn.c_attn.weight", 2, "qkv"),
        ("transformer.h.2.attn.c_proj.weight", 2, "o"),
        ("transformer.h.2.mlp.c_proj.weight", 2, "down"),
        ("transformer.h.2.attn.attention.out_proj.weight", 2, "o"),
        ("transformer.h.2.ln_1.weight", 2, "norm"),
        ("transformer.ln_f.bias", OUTSIDE, "norm"),
        ("gpt_neox.layers.1.attention.query_key_value.weight", 1, "qkv"),
        ("gpt_neox.layers.1.attention.dense.bias", 1, "o"),
        ("gpt_neox.layers.1.mlp.dense_4h_to_h.weight", 1, "down"),
        ("model.embed_tokens.weight", OUTSIDE, "embedding"),
        ("transformer.wpe.weight", OUTSIDE, "embedding"),
        ("lm_head.weight", OUTSIDE, "head"),
        ("model.layers.1.router.w", 1, "other"),
    ],
)
def test_names(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)


def test_gini_by_hand():
    assert gini([1, 1, 1]) == 0 and gini([0, 0]) == 0 and gini([]) == 0
    assert gini([0, 0, 0, 4]) == pytest.approx(0.75)  # (n - 1) / n
    # pairs of 1, 2, 6: differences 1, 5, 4 count twice: 20 / (2 * 9 * 3) = 0.3704
    assert gini([6, 1, 2]) == pytest.approx(20 / 54)


def test_layers_come_in_order_and_the_outside_does_not_count_for_gini():
    places = tuple(
        Place(layer=layer, kind=kind, selected=n, weights=10)
        for layer, kind, n in ((10, "up", 2), (2, "q", 2), (OUTSIDE, "embedding", 9), (2, "up", 0))
    )
    found = Fingerprint(label="x", unit="weight", units=13, share=0.3, places=places)
    assert list(found.by("layer")) == [OUTSIDE, 2, 10] and list(found.by("kind")) == ["q", "up", "embedding"]
    assert found.by("layer")[2] == 0.1 and found.gini == pytest.approx(gini([0.1, 0.2]))


def test_units_by_the_dozen():
    assert [plural(unit) for unit in ("weight", "value_vector", "neuron", "matrix")] == [
        "weights",
        "value vectors",
        "neurons",
        "matrices",
    ]
