"""Fingerprints, agreement and recovery against numbers worked by hand and against random draws."""

import numpy as np
import pytest
import torch

from expunge.core.checks import ExpungeError
from expunge.masks.agreement import agreements, recovery
from expunge.masks.mask import Mask
from expunge.masks.mask_fingerprint import fingerprint
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part

LAYOUT = Layout(
    "value_vector",
    {f"model.layers.{i}.mlp.down_proj.weight": Part((4, 10), "slices", f"{i}", dim=1) for i in range(2)},
)


def mask(first, second, layout=LAYOUT):
    bits = {}
    for group, chosen in zip(layout.groups, (first, second), strict=True):
        selected = torch.zeros(layout.groups[group], dtype=torch.bool)
        selected[list(chosen)] = True
        bits[group] = pack(selected)
    return Mask(layout, bits)


def test_densities_by_hand():
    found = fingerprint(mask([1, 2, 3], [0]), "mine")
    assert (found.label, found.unit, found.units, found.share) == ("mine", "value_vector", 4, 0.2)
    assert [(p.layer, p.kind, p.selected, p.weights) for p in found.places] == [(0, "down", 12, 40), (1, "down", 4, 40)]
    assert found.by("layer") == {0: 0.3, 1: 0.1} and found.by("kind") == {"down": 0.2}
    assert found.gini == pytest.approx(0.25)  # |0.3 - 0.1| / (2 * (0.3 + 0.1))


def test_agreement_by_hand():
    # intersection 2, union 6; random masks of 4 of 20: 0.8 shared, so 0.8 / 7.2 = p / (2 - p) at p = 0.2
    (found,) = agreements({"a": mask([1, 2, 9], [0]), "b": mask([2, 3], [0, 4])})
    assert (found.one, found.other) == ("a", "b")
    assert found.iou == pytest.approx(2 / 6) and found.coefficient == 0.5
    assert found.expected_iou == pytest.approx(0.2 / 1.8) and found.expected_coefficient == pytest.approx(0.2)


def test_recovery_by_hand():
    found = recovery(mask([1, 2, 9], [0]), mask([1, 2], []))
    assert (found.precision, found.recall) == (0.5, 1.0)
    assert (found.expected_precision, found.expected_recall) == (0.1, 0.2)
    with pytest.raises(ExpungeError, match="something selected"):
        recovery(mask([], []), mask([1], []))


def test_expectations_are_the_means_of_random_draws():
    region = mask([1, 2, 9], [0])
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(3000):
        units = rng.choice(20, 5, replace=False)
        drawn.append(mask(units[units < 10], units[units >= 10] - 10))
    met = [recovery(one, region) for one in drawn]
    # standard error of a mean of 3000 is below 0.004 for both
    assert np.mean([m.precision for m in met]) == pytest.approx(met[0].expected_precision, abs=0.015)
    assert np.mean([m.recall for m in met]) == pytest.approx(met[0].expected_recall, abs=0.015)
    expected = agreements({"a": drawn[0], "b": region})[0].expected_coefficient
    assert np.mean([one.overlap(region).coefficient for one in drawn]) == pytest.approx(expected, abs=0.015)


def test_masks_that_are_cut_otherwise_meet_in_weights():
    names = list(LAYOUT.parts)
    weights = Layout("weight", {names[0]: Part((4, 10), "weights", "w")})
    chosen = torch.zeros(4, 10, dtype=torch.bool)
    chosen[0] = True
    row = Mask(weights, {"w": pack(chosen.reshape(-1))})
    # ten weights of the row, of which those in columns 1 and 2 lie in the region of 3 * 4 weights
    found = recovery(row, mask([1, 2], [0]))
    assert found.precision == 2 / 10 and found.recall == pytest.approx(2 / 12)
    # of the 40 weights that the row's mask knows 8 are in the region; it selects a quarter of them
    assert found.expected_precision == 8 / 40 and found.expected_recall == pytest.approx(0.25 * 8 / 12)
    (pair,) = agreements({"row": row, "region": mask([1, 2], [0])})
    # 40 weights known to both, 1/4 and 12/80 of them selected on average: 1.5 shared of 10 + 12 - 1.5
    assert pair.iou == 2 / 20 and pair.expected_iou == pytest.approx(1.5 / 20.5)


@pytest.mark.parametrize("meet", [lambda a, b: agreements({"a": a, "b": b}), recovery])
def test_masks_of_different_models_do_not_meet(meet):
    wider = Layout("value_vector", {name: Part((4, 12), "slices", name, dim=1) for name in LAYOUT.parts})
    with pytest.raises(ExpungeError, match=r"different models: model\.layers\.0.* is \[4, 10\] in the one, \[4, 12\]"):
        meet(mask([1], [0]), mask([1], [0], wider))
