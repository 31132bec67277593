"""Masks: algebra, shares, overlaps, random complements, storage, and what they refuse."""

import math

import pytest
import torch
from torch import nn

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.masks.mask import Mask
from expunge.masks.storage import pack, popcount, unpack
from expunge.masks.units import Layout, Part

LAYOUT = Layout(
    "value_vector",
    {"down.0": Part((4, 10), "slices", "down.0", dim=1), "down.1": Part((10, 2), "slices", "down.1", dim=0)},
)
NEURONS = Layout(
    "neuron",
    {
        "up": Part((10, 3), "slices", "mlp"),
        "up.bias": Part((10,), "slices", "mlp"),
        "down": Part((3, 10), "slices", "mlp", dim=1),
    },
)


def mask(first, second, layout=LAYOUT, manifest=None):
    bits = {}
    for group, chosen in zip(layout.groups, (first, second), strict=False):
        selected = torch.zeros(layout.groups[group], dtype=torch.bool)
        selected[list(chosen)] = True
        bits[group] = pack(selected)
    return Mask(layout, bits, manifest)


def chosen(found):
    return {(group, i) for group in found.layout.groups for i in found.selected(group).nonzero().flatten().tolist()}


def test_packing_keeps_every_bit():
    for n in (1, 7, 8, 9, 64, 1001):
        drawn = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.3
        assert torch.equal(unpack(pack(drawn), n), drawn)
        assert popcount(pack(drawn)) == int(drawn.sum())


def test_dense_and_indices_of_slices():
    found = mask([1], [0, 9])
    dense = found.dense("down.0")
    assert dense.shape == (4, 10) and dense[:, 1].all() and int(dense.sum()) == 4
    dense = found.dense("down.1")
    assert dense.shape == (10, 2) and dense[0].all() and dense[9].all() and int(dense.sum()) == 4
    assert found.indices("down.1").tolist() == [0, 9]


def test_a_neuron_is_switched_in_all_its_parameters():
    found = mask([2, 5], [], NEURONS)
    assert found.dense("up")[2].all() and found.dense("down")[:, 5].all()
    assert found.dense("up.bias").nonzero().flatten().tolist() == [2, 5]
    # 2 of 10 neurons; each has 3 + 1 + 3 of 70 weights
    assert found.share() == (0.2, 14 / 70)


def test_share_by_units_and_by_weights():
    # 3 of 20 units; 1 * 4 + 2 * 2 of 40 + 20 weights
    assert mask([1], [0, 9]).share() == (3 / 20, 8 / 60)


def test_algebra_is_that_of_sets():
    one, two = mask([1, 2, 9], [0]), mask([2, 3], [0, 4])
    assert chosen(one & two) == chosen(one) & chosen(two)
    assert chosen(one | two) == chosen(one) | chosen(two)
    assert chosen(~one) == {(g, i) for g, n in LAYOUT.groups.items() for i in range(n)} - chosen(one)
    assert ~~one == one and one != two
    assert (one & ~one).share() == (0, 0) and (one | ~one).share() == (1, 1)
    assert ~(one & two) == ~one | ~two


def test_overlap_by_hand():
    # intersection {2, 0'}: 2; union 4 + 4 - 2 = 6; the smaller has 4
    assert mask([1, 2, 9], [0]).overlap(mask([2, 3], [0, 4])) == (2 / 6, 2 / 4)
    assert mask([1], []).overlap(mask([1, 2], [])) == (1 / 2, 1)
    empty = mask([], [])
    assert math.isnan(empty.overlap(empty).iou) and empty.overlap(mask([1], [])).iou == 0


def test_overlap_of_masks_that_are_cut_otherwise_counts_weights():
    matrix = Layout("matrix", {"down.0": Part((4, 10), "whole", "down.0")})
    whole = Mask(matrix, {"down.0": pack(torch.tensor([True]))})
    # 8 of the 40 weights of down.0 are in two value vectors, and 2 more of down.1
    assert mask([1, 2], [0]).overlap(whole) == (8 / 42, 8 / 10)
    assert whole.overlap(mask([1, 2], [0])) == (8 / 42, 8 / 10)
    with pytest.raises(ExpungeError, match=r"different models: down\.0 is \[4, 10\] in the one, \[4, 9\]"):
        mask([1], [0]).overlap(
            Mask(Layout("matrix", {"down.0": Part((4, 9), "whole", "g")}), {"g": pack(torch.ones(1) > 0)})
        )


def test_masks_that_are_cut_otherwise_are_not_joined():
    other = Layout("value_vector", {**LAYOUT.parts, "down.1": Part((12, 2), "slices", "down.1", dim=0)})
    with pytest.raises(ExpungeError, match=r"down\.1 is \[10, 2\] in the one and \[12, 2\] in the other"):
        mask([1], [0]) & mask([1], [0], other)
    with pytest.raises(ExpungeError, match="units are value_vector in the one and neuron in the other"):
        mask([1], [0]) | mask([1], [], NEURONS)
    with pytest.raises(ExpungeError, match=r"only one of them holds down\.1"):
        mask([1], [0]) & mask([1], [], Layout("value_vector", {"down.0": LAYOUT.parts["down.0"]}))


@pytest.mark.parametrize("scope", ["global", "per_matrix"])
def test_a_complement_lies_outside_and_is_of_the_same_size(scope):
    found = mask([1, 2, 9], [0])
    seen = set()
    for seed in range(200):
        drawn = found.complement(seed, scope=scope)
        assert drawn == found.complement(seed, scope=scope)
        assert not chosen(drawn) & chosen(found) and len(chosen(drawn)) == 4
        if scope == "per_matrix":
            assert drawn.counts() == found.counts()
        seen |= chosen(drawn)
    assert seen == chosen(~found)  # each unit outside may be drawn


@pytest.mark.slow
def test_a_complement_is_drawn_uniformly():
    found = mask([1, 2, 9], [0])
    times = dict.fromkeys(chosen(~found), 0)
    for seed in range(2000):
        for unit in chosen(found.complement(seed)):
            times[unit] += 1
    # 16 units outside, 4 drawn: each 500 times on average, standard deviation sqrt(2000 * 1/4 * 3/4) = 19.4
    assert all(abs(n - 500) < 5 * 19.4 for n in times.values())


def test_matched_is_the_scope_per_matrix():
    found = mask([1, 2, 9], [0])
    assert found.complement(3, matched=True) == found.complement(3, scope="per_matrix")
    assert any(found.complement(seed, matched=True) != found.complement(seed) for seed in range(9))


def test_a_complement_needs_room():
    with pytest.raises(ExpungeError, match="scope must be global or per_matrix; got 'per_row'"):
        mask([1], [0]).complement(0, scope="per_row")
    with pytest.raises(ExpungeError, match=r"11 of 20 units are selected, so only 9 are left"):
        mask(range(9), [0, 1]).complement(0)
    with pytest.raises(ExpungeError, match=r"down\.0: 9 of 10 units are selected"):
        mask(range(9), [0]).complement(0, matched=True)


def test_storage_keeps_all(tmp_path):
    made = Manifest(stage="localize", arguments={"attribution": "wagle"}, seed=3, inputs={"model": "xxh3:1"})
    found = mask([1, 2, 9], [0], manifest=made)
    again = Mask.load(found.save(tmp_path / "deep" / "mask.safetensors"))
    assert again == found and again.layout == LAYOUT and again.manifest == made
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "mask.safetensors"]


def test_a_stored_mask_takes_one_bit_a_weight(tmp_path):
    n = 80_000
    layout = Layout("weight", {"w": Part((n,), "weights", "w")})
    path = Mask(layout, {"w": pack(torch.ones(n, dtype=torch.bool))}).save(tmp_path / "m.safetensors")
    assert n / 8 <= path.stat().st_size < n / 8 + 500


def test_what_is_no_mask_is_refused(tmp_path):
    with pytest.raises(ExpungeError, match=r"no mask at .*nowhere"):
        Mask.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello, this is no mask at all")
    with pytest.raises(ExpungeError, match="not a safetensors file"):
        Mask.load(tmp_path / "text")
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ExpungeError, match="holds no mask: its format is None"):
        Mask.load(tmp_path / "weights.safetensors")


def test_a_model_that_it_does_not_fit_is_named_by_the_first_parameter_that_differs():
    layout = Layout("matrix", {n: Part(s, "whole", n) for n, s in (("0.weight", (3, 2)), ("1.weight", (4, 3)))})
    found = Mask(layout, {n: pack(torch.tensor([True])) for n in layout.groups})
    found.check(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
    with pytest.raises(ExpungeError, match=r"1\.weight is \[4, 3\] in the mask and \[5, 3\] in the model"):
        found.check(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)))
    with pytest.raises(ExpungeError, match=r"about 1\.weight, which Sequential does not have"):
        found.check(nn.Sequential(nn.Linear(2, 3)))


def test_derived_masks_say_what_they_were_made_from():
    made = Manifest(stage="localize", arguments={"attribution": "wagle"}, inputs={"model": "xxh3:1"})
    drawn = mask([1], [0], manifest=made).complement(7)
    assert drawn.manifest.inputs == {"model": "xxh3:1"} and drawn.manifest.seed == 7
    assert drawn.manifest.arguments["made_by"] == "random complement"
    assert drawn.manifest.arguments["of"] == [{"attribution": "wagle"}]


def test_a_group_has_one_number_of_units():
    with pytest.raises(ExpungeError, match="up has 10 units and others of its group mlp have 9"):
        Layout("neuron", {"down": Part((3, 9), "slices", "mlp", dim=1), "up": Part((10, 3), "slices", "mlp")})


def _two_layers():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False))
    model[2].weight = model[1].weight
    return model


def test_a_mask_of_given_weights_comes_back_from_its_file(tmp_path):
    model = _two_layers()
    drawn = torch.Generator().manual_seed(0)
    selected = {name: torch.rand(p.shape, generator=drawn) < 0.3 for name, p in model.named_parameters()}
    made = Mask.of(model, dict(reversed(selected.items())))
    made.check(model)
    assert list(made.layout.parts) == ["0.weight", "0.bias", "1.weight"]  # the model's order, whatever the mapping's
    loaded = Mask.load(made.save(tmp_path / "mask.safetensors"))
    assert loaded == made and loaded.layout.unit == "weight"
    for name, chosen_weights in selected.items():
        assert torch.equal(loaded.dense(name), chosen_weights), name
    # A view without memory of its own, as `expand` gives it.
    rows = Mask.of(model, {"0.weight": torch.tensor([[True], [False], [False], [True]]).expand(4, 3)})
    assert rows.indices("0.weight").tolist() == [0, 1, 2, 9, 10, 11] and list(rows.layout.parts) == ["0.weight"]


def test_a_tied_parameter_is_selected_by_any_of_its_names():
    model, chosen_weights = _two_layers(), torch.eye(3, 4).bool()
    assert torch.equal(Mask.of(model, {"2.weight": chosen_weights}).dense("1.weight"), chosen_weights)
    both = Mask.of(model, {"2.weight": chosen_weights, "1.weight": chosen_weights.clone()})
    assert both.counts() == {"1.weight": 3}
    with pytest.raises(ExpungeError, match=r"'1\.weight' and '2\.weight' are one tied"):
        Mask.of(model, {"1.weight": chosen_weights, "2.weight": ~chosen_weights})


@pytest.mark.parametrize(
    ("selected", "why"),
    [
        ({}, "at least one parameter"),
        ({"0.weigth": torch.ones(4, 3).bool()}, "Sequential has no parameter '0.weigth'. Did you mean '0.weight'"),
        ({"lm_head": torch.ones(4, 3).bool()}, r"no parameter 'lm_head'. model.named_parameters\(\) lists"),
        ({"0.weight": torch.ones(3, 4).bool()}, r"shape \[3, 4\], the parameter \[4, 3\]"),
        ({"0.weight": torch.ones(4, 3)}, "0.weight: a selection must be a bool tensor; got torch.float32"),
    ],
)
def test_what_no_mask_is_made_of(selected, why):
    with pytest.raises(ExpungeError, match=why):
        Mask.of(_two_layers(), selected)
