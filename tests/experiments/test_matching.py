"""match_retain: its loss by hand, where it is taken, and that it moves a region and nothing else."""

import copy

import pytest
import torch

import zoo
from expunge.core.batch import collate
from expunge.data.tokenizing import encode
from expunge.experiments._locality.matching import distance, match, matching_places, mean_distance_of
from expunge.experiments._locality.protocol import Bench, Protocol
from expunge.masks.mask import Mask
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part
from expunge.models.load import save_model


def test_by_hand():
    """One block, one row, two positions of which the second counts, width 2: ((3 - 1)^2 + (5 - 4)^2) / 2 = 2.5."""
    ours, theirs = torch.tensor([[[[9.0, 9.0], [3.0, 5.0]]]]), torch.tensor([[[[0.0, 0.0], [1.0, 4.0]]]])
    assert mean_distance_of(ours, theirs, torch.tensor([[False, True]])) == 2.5
    # a second block at no distance halves the mean
    both = torch.cat([ours, theirs]), torch.cat([theirs, theirs])
    assert mean_distance_of(*both, torch.tensor([[False, True]])) == 1.25


def test_the_mlp_is_read_where_a_completion_token_is_predicted():
    model, other = zoo.tiny_model(seed=0), zoo.tiny_model(seed=1)
    row = encode(zoo.corpus()["forget"], zoo.tokenizer())[0]
    found = distance(model, other, collate([row]))
    ids = torch.tensor([row.ids])
    by_hand = []
    for one, two in zip(model.model.layers, other.model.layers, strict=True):
        seen = []
        for block in (one, two):
            block.mlp.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.detach()))
        by_hand.append(seen)
    model(ids), other(ids)
    places = slice(row.start - 1, len(row.ids) - 1)
    losses = [((a - b)[0, places].double() ** 2).sum(-1) / a.shape[-1] for a, b in by_hand]
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    # padding is inert
    longer = encode(zoo.corpus()["forget"], zoo.tokenizer())
    assert len({len(r.ids) for r in longer}) > 1
    alone = [(distance(model, other, collate([r])), len(r.ids) - r.start) for r in longer]
    expected = sum(loss * n for loss, n in alone) / sum(n for _, n in alone)
    assert distance(model, other, collate(longer)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distance(model, model, collate(longer)) == 0


def test_a_region_moves_toward_the_retain_model_and_nothing_else(tmp_path):
    base, model = zoo.tiny_model(seed=0), zoo.tiny_model(seed=0)
    parts = {n: Part(tuple(p.shape), "slices", n, dim=1) for n, p in model.named_parameters() if "down_proj" in n}
    layout = Layout("value_vector", parts)
    with torch.no_grad():
        for name in parts:
            model.get_parameter(name)[:, :9] += 0.3
    mask = Mask(layout, {name: pack(torch.arange(units) < 9) for name, units in layout.groups.items()})
    folder = save_model(base, zoo.tokenizer(), tmp_path / "retain")
    settings = {"learning_rate": 2e-2, "epochs": 8, "batch_size": 4}
    bench = Bench(tmp_path, folder, zoo.corpus(), zoo.corpus(), Protocol(matching=settings))
    untouched = copy.deepcopy(model)
    before, after = match(bench, model, base, mask, seed=0)
    assert 0 < after < before / 2
    # The mean over positions does not know of batches: 6 rows of unlike length were measured in batches of 4.
    whole = distance(untouched, base, collate(encode(zoo.corpus()["forget"], zoo.tokenizer())))
    assert before == pytest.approx(whole.item(), rel=1e-5)
    inside = {name: mask.dense(name) for name in parts}
    for name, parameter in model.named_parameters():
        changed = parameter != untouched.get_parameter(name)
        assert not (changed & ~inside[name] if name in parts else changed).any()
    again = copy.deepcopy(untouched)
    assert match(bench, again, base, mask, seed=0) == (before, after)


def test_three_random_regions_lie_outside():
    model = zoo.tiny_model()
    parts = {n: Part(tuple(p.shape), "slices", n, dim=1) for n, p in model.named_parameters() if "down_proj" in n}
    layout = Layout("value_vector", parts)
    region = Mask(layout, {name: pack(torch.arange(units) < 9) for name, units in layout.groups.items()})
    places = matching_places({"oracle": region, "random": region.complement(0)}, 0)
    assert list(places) == ["oracle", "random a", "random b", "random c"]
    draws = list(places.values())[1:]
    assert draws[0] == region.complement(0)
    assert all(sum((region & draw).counts().values()) == 0 for draw in draws)
    assert all(one != other for i, one in enumerate(draws) for other in draws[:i])
