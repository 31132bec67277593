"""Whole localizations against slow plain ones: transformers' own forward, one example at a time, loops over units."""

import math

import pytest
import torch

import expunge
import zoo
from expunge.data.corpus import Corpus
from expunge.data.tokenizing import encode

ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "gemma2")
# As many retain as forget examples, so that all of them are taken.
CORPUS = Corpus({split: zoo.corpus()[split][:5] for split in ("forget", "retain")}, "five")
CHANNELS = {"gpt2": 128}


def down_name(architecture, layer):
    return {
        "gpt2": f"transformer.h.{layer}.mlp.c_proj",
        "gpt_neox": f"gpt_neox.layers.{layer}.mlp.dense_4h_to_h",
    }.get(architecture, f"model.layers.{layer}.mlp.down_proj")


def column(architecture, tensor, channel):
    """The numbers that belong to one value vector; GPT-2 keeps its matrices transposed."""
    return tensor[channel] if architecture == "gpt2" else tensor[:, channel]


def mean_gradient(model, split):
    rows = encode(CORPUS[split], zoo.tokenizer())
    model.zero_grad(set_to_none=True)
    for row in rows:
        logprobs = model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        answer = [logprobs[t - 1, row.ids[t]] for t in range(row.start, len(row.ids))]
        (-sum(answer) / len(answer) / len(rows)).backward()
    found = {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def inputs_of(model, module_name):
    seen = []
    rows = encode(CORPUS["forget"], zoo.tokenizer())
    handle = model.get_submodule(module_name).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        for row in rows:
            model(input_ids=torch.tensor([row.ids]))
    handle.remove()
    return torch.cat([x[row.start - 1 : len(row.ids) - 1] for x, row in zip(seen, rows, strict=True)]).double()


def localized(model, **settings):
    return expunge.localize(model, zoo.tokenizer(), CORPUS, **settings)


def close(ours, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert expected.abs().max() > 0
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_value_vectors(architecture):
    model = zoo.tiny_model(architecture).double()
    forget, retain = mean_gradient(model, "forget"), mean_gradient(model, "retain")
    name = down_name(architecture, 1)
    weight = model.get_parameter(f"{name}.weight").detach()
    channels = CHANNELS.get(architecture, 48)
    used = inputs_of(model, name)
    expected = {"wagle": [], "memflex": [], "gradient": [], "activation": []}
    for j in range(channels):
        tensors = (weight, forget[f"{name}.weight"], retain[f"{name}.weight"])
        theta, f, r = (column(architecture, tensor, j).tolist() for tensor in tensors)
        expected["wagle"].append(abs(sum((t - b / 0.5) * a for t, a, b in zip(theta, f, r, strict=True))))
        norm = {k: math.sqrt(sum(x * x for x in v)) for k, v in (("theta", theta), ("f", f), ("r", r))}
        cosine = sum(a * b for a, b in zip(f, r, strict=True)) / norm["f"] / norm["r"]
        expected["memflex"].append(norm["f"] if cosine < 0.3 else -(1 + cosine))
        expected["gradient"].append(norm["f"])
        expected["activation"].append(sum(abs(float(x[j])) for x in used) / len(used) * norm["theta"])
    own = {"wagle": {"gamma": 0.5}, "memflex": {"mu": 0.3}}
    for attribution, values in expected.items():
        close(localized(model, attribution=attribution, **own.get(attribution, {})).values[f"{name}.weight"], values)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_and_their_inputs(architecture):
    model = zoo.tiny_model(architecture).double()
    name = down_name(architecture, 2)
    weight = model.get_parameter(f"{name}.weight").detach()
    mean_square = inputs_of(model, name).square().mean(0)
    expected = torch.zeros_like(weight)
    for row in range(weight.shape[0]):
        for col in range(weight.shape[1]):
            expected[row, col] = weight[row, col].abs() * mean_square[row if architecture == "gpt2" else col].sqrt()
    scores = localized(model, attribution="wanda", modules="down")
    close(scores.values[f"{name}.weight"], expected.reshape(-1).tolist())
    # The top tenth of every output: of a matrix [out, in], or of its transpose in GPT-2.
    dense = scores.select(ratio=0.1).dense(f"{name}.weight")
    per_output = dense.sum(0 if architecture == "gpt2" else 1)
    assert set(per_output.tolist()) == {CHANNELS.get(architecture, 48) // 10}


def test_a_neuron_gathers_all_that_makes_its_channel():
    model = zoo.tiny_model("gpt_neox").double()
    forget = mean_gradient(model, "forget")
    mlp = "gpt_neox.layers.0.mlp"
    expected = []
    for j in range(48):
        parts = [
            *forget[f"{mlp}.dense_4h_to_h.weight"][:, j].tolist(),
            *forget[f"{mlp}.dense_h_to_4h.weight"][j].tolist(),
            float(forget[f"{mlp}.dense_h_to_4h.bias"][j]),
        ]
        expected.append(math.sqrt(sum(x * x for x in parts)))
    close(localized(model, attribution="gradient", unit="neuron").values[f"{mlp}.dense_4h_to_h.weight"], expected)
