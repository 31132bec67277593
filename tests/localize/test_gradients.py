"""Statistics against plain second implementations: one example at a time, transformers' own forward, float64."""

import pytest
import torch
from torch import nn

import expunge
import zoo
from expunge.core.batch import Encoded
from expunge.data.tokenizing import encode
from expunge.localize import gradients as statistics
from expunge.localize.attribution_inputs import unit_rows
from expunge.localize.datasets import noisy_copies
from expunge.localize.gradients import Dataset, gradients, input_means
from expunge.localize.model_units import layout
from expunge.models.anatomy import blocks, down_projection
from expunge.objectives.combine import build


def rows_of(split="forget", n=None):
    return encode(zoo.corpus()[split][:n], zoo.tokenizer())


def nll_side(rows):
    return Dataset("forget", build(None, retain="nll"), {"retain": rows})


def plain_gradients(model, rows, names):
    """Gradient of each example's mean loss over completion tokens, by transformers' own forward pass."""
    found = []
    for row in rows:
        model.zero_grad(set_to_none=True)
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        logprobs = logits.log_softmax(-1)
        loss = -torch.stack([logprobs[t - 1, row.ids[t]] for t in range(row.start, len(row.ids))]).mean()
        loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if name in names})
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_gradients_agree_with_one_example_at_a_time(architecture):
    model = zoo.tiny_model(architecture).double()
    names = list(layout(model, unit="matrix", modules="all").parts)
    rows = rows_of()
    each = plain_gradients(model, rows, names)
    expected = {
        "mean": {n: torch.stack([e[n] for e in each]).mean(0) for n in names},
        "sum": {n: torch.stack([e[n] for e in each]).sum(0) for n in names},
        "squares": {n: torch.stack([e[n] for e in each]).square().mean(0) for n in names},
    }
    for how, values in expected.items():
        ours = gradients(model, nll_side(rows), names, how=how, batch_size=4)
        for name in names:
            # transformers computes norms and positions in float32 whatever the model's type
            assert (ours[name] - values[name]).norm() <= 2e-6 * values[name].norm()


def test_only_named_parameters_are_computed():
    model = zoo.tiny_model()
    names = ["model.layers.2.mlp.down_proj.weight"]
    seen = []
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda g, name=name: seen.append(name))
    found = gradients(model, nll_side(rows_of()), names)
    assert list(found) == names and set(seen) == set(names)


def test_gradients_of_half_precision_are_summed_in_float32():
    model = zoo.tiny_model().bfloat16()
    names = list(layout(model).parts)
    found = gradients(model, nll_side(rows_of()), names, batch_size=1)
    assert {g.dtype for g in found.values()} == {torch.float32}
    exact = gradients(zoo.tiny_model(), nll_side(rows_of()), names)
    for name in names:
        difference = (found[name] - exact[name]).norm() / exact[name].norm()
        assert difference < 0.05


@pytest.mark.parametrize("method", ["grad_ascent", "npo", "idk", "dpo", "wga", "rmu", "undial"])
def test_any_objective_can_be_the_forget_objective(method):
    scores = expunge.localize(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), attribution="gradient", forget_objective=method,
        **({"layer": 2} if method == "rmu" else {}),
    )  # fmt: skip
    assert max(float(v.max()) for v in scores.values.values()) > 0
    assert scores.manifest.arguments["forget_objective"] == method


def test_the_model_is_its_own_reference():
    # At the reference NPO's gradient is that of plain ascent: 2 / beta * beta * sigmoid(0) = 1 times grad sum log p.
    model, names = zoo.tiny_model().double(), ["model.layers.1.mlp.down_proj.weight"]
    datasets = {}
    for method in ("npo", "grad_ascent"):
        objective = build(method, retain="none", depth=3)
        datasets[method] = Dataset("forget", objective, {"forget": rows_of(n=1)})
    npo, ascent = (gradients(model, dataset, names)[names[0]] for dataset in datasets.values())
    length = len(rows_of(n=1)[0].ids) - rows_of(n=1)[0].start
    torch.testing.assert_close(npo, ascent * length, rtol=1e-4, atol=1e-8)


def test_refusals_are_what_idk_looks_at():
    common = {"attribution": "gradient", "seed": 0}
    plain = expunge.localize(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), **common)
    refusing = expunge.localize(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), forget_objective="idk", **common)
    assert plain.manifest.inputs["forget"] != refusing.manifest.inputs["forget"]
    assert any(not torch.equal(plain.values[g], refusing.values[g]) for g in plain.values)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("positions", ["predicting", "all"])
def test_inputs_agree_with_one_example_at_a_time(architecture, positions):
    model = zoo.tiny_model(architecture).double()
    layers = {str(i): down_projection(block) for i, block in enumerate(blocks(model))}
    rows = rows_of()
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    handles = [
        layer.register_forward_pre_hook(lambda _m, inputs, name=name: seen[name].append(inputs[0][0].clone()))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for row in rows:
            model(input_ids=torch.tensor([row.ids]))
    for handle in handles:
        handle.remove()
    absolute, squared = input_means(model, layers, rows, positions=positions, batch_size=4)
    for name, captured in seen.items():
        looked = torch.cat(
            [
                x[row.start - 1 : len(row.ids) - 1] if positions == "predicting" else x
                for x, row in zip(captured, rows, strict=True)
            ]
        )
        torch.testing.assert_close(absolute[name], looked.abs().mean(0), rtol=1e-5, atol=0)
        torch.testing.assert_close(squared[name], looked.square().mean(0), rtol=1e-5, atol=0)


def test_gradients_are_kept_by_content(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))
    passes = []
    monkeypatch.setattr(
        statistics, "example_losses", lambda *a, real=statistics.example_losses: passes.append(1) or real(*a)
    )
    call = {"attribution": "wagle", "gamma": 100.0}

    def scored(model, **more):
        before = len(passes)
        found = expunge.localize(model, zoo.tokenizer(), zoo.corpus(), **{**call, **more})
        return found, len(passes) - before

    first, ran = scored(zoo.tiny_model())
    assert ran == 2  # six forget and six retain examples, eight at once
    again, ran = scored(zoo.tiny_model())
    assert ran == 0 and all(torch.equal(again.values[g], first.values[g]) for g in first.values)
    found = expunge.localize(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), attribution="memflex")
    assert len(passes) == 2 and found  # another attribution, the same pass
    assert scored(zoo.tiny_model(seed=1))[1] == 2
    assert scored(zoo.tiny_model(), unit="matrix")[1] == 2
    assert scored(zoo.tiny_model(), seed=5)[1] == 1  # other retain examples
    assert scored(zoo.tiny_model(), gradient="sum")[1] == 2
    monkeypatch.setattr(statistics, "CACHED", 10)
    assert scored(zoo.tiny_model())[1] == 2


def test_damaged_gradients_in_the_cache_are_computed_again(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))
    model, rows = zoo.tiny_model(), rows_of()
    names = list(layout(model, unit="matrix").parts)
    first = gradients(model, nll_side(rows), names, model_fingerprint="xxh3:one")
    gradients(model, nll_side(rows), names, how="sum", model_fingerprint="xxh3:one")
    entry, other = sorted((tmp_path / "gradients").iterdir())
    for content in (entry.read_bytes()[:200], other.read_bytes()):
        for place in (entry, other):
            place.write_bytes(content)
        again = gradients(model, nll_side(rows), names, model_fingerprint="xxh3:one")
        assert all(torch.equal(again[name], first[name]) for name in names)


def test_noisy_copies_replace_draws_of_completion_tokens():
    row = Encoded(tuple(range(100, 140)), 20, True, 0)
    copies = noisy_copies([row], 0.5, 3, 50, "0")
    assert len(copies) == 3 and len({copy.ids for copy in copies}) == 3
    for copy in copies:
        assert copy.ids[:20] == row.ids[:20] and len(copy.ids) == 40
        changed = [t for t in copy.ids[20:] if t < 50]
        assert 5 <= len(changed) <= 10  # ten draws with replacement out of 20
    assert noisy_copies([row], 0.5, 3, 50, "0") == copies and noisy_copies([row], 0.5, 3, 50, "1") != copies


def test_unit_rows_by_hand():
    model = nn.Module()
    model.a = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    from expunge.masks.units import Layout, Part

    tensors = dict(model.named_parameters())
    sliced = Layout("value_vector", {"a": Part((2, 3), "slices", "a", dim=1)})
    assert unit_rows(sliced, "a", tensors).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert unit_rows(Layout("weight", {"a": Part((2, 3), "weights", "a")}), "a", tensors).tolist() == [
        [0], [1], [2], [3], [4], [5],
    ]  # fmt: skip
    assert unit_rows(Layout("matrix", {"a": Part((2, 3), "whole", "a")}), "a", tensors).tolist() == [[0, 1, 2, 3, 4, 5]]
    both = Layout("neuron", {"a": Part((2, 3), "slices", "g", dim=1), "b": Part((3,), "slices", "g")})
    assert unit_rows(both, "g", {**tensors, "b": torch.tensor([7.0, 8, 9])}).tolist() == [
        [0, 3, 7],
        [1, 4, 8],
        [2, 5, 9],
    ]
