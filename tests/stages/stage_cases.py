"""What is localized, evaluated and attacked, in one process and in two."""

from typing import Any

import torch
from transformers import PreTrainedModel

import zoo
from expunge.data.corpus import Corpus, Example

LOCALIZED: dict[str, dict[str, Any]] = {
    "wagle": {"attribution": "wagle", "unit": "weight", "dtype": "float64", "batch_size": 2},
    "fisher": {"attribution": "fisher", "unit": "weight", "dtype": "float64"},
    "memflex": {"attribution": "memflex", "dtype": "float64", "batch_size": 3, "forget_objective": "npo"},
    "activation": {"attribution": "activation", "dtype": "float64", "batch_size": 100},  # one batch: one rank has none
    "wanda": {"attribution": "wanda", "dtype": "float32", "batch_size": 2},
    "in float32": {"attribution": "wagle", "unit": "weight", "dtype": "float32", "batch_size": 1},
    "sharded": {"attribution": "wagle", "unit": "weight", "dtype": "float64", "batch_size": 4, "sharded": True},
    "sharded squares": {"attribution": "fisher", "unit": "neuron", "dtype": "float64", "sharded": True},
    "sharded inputs": {"attribution": "wanda", "dtype": "float64", "batch_size": 4, "sharded": True},
}
EVALUATED: dict[str, Any] = {"suite": "default", "batch_size": 3}
ATTACKS = (
    *("quantize", "prune", "relearn", "siblings", "prompts", "sampling", "lens"),
    *("depth", "latent", "probe", "prefix_search", "interpolate"),
)
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("quantize", {"forms": ["int8"]}),
    ("relearn", {"steps": 2, "batch_size": 3, "on": ["forget"], "points": 2}),  # 3 rows do not divide among 2
    ("siblings", {"steps": 2, "points": 2}),
    ("prompts", {"forms": ["paraphrase", "list"]}),
    ("sampling", {"samples": 3, "k": 2}),
    ("depth", {"start": "start"}),
    ("interpolate", {"start": "start", "shares": [0.25]}),
    ("latent", {"radii": [0.1], "steps": 2}),
    ("probe", {"folds": 3}),
    ("prefix_search", {"swaps": 2, "candidates": 3, "shown": 2, "length": 3}),
)
COMMANDS = [
    ["localize", "model=float32", "forget=forget.json", "retain=retain.json", "output=mask.safetensors", "unit=neuron"],
    ["evaluate", "model=float32", "forget=forget.json", "retain=retain.json", "output=records", "suite=tradeoff"],
    ["attack", "float32", "forget=forget.json", "attacks=prune", "output=pruned"],
]


def model_of(dtype: str) -> PreTrainedModel:
    """A small model."""
    return zoo.tiny_model("llama", seed=1, max_position_embeddings=512).to(getattr(torch, dtype)).eval()


def attacked_model() -> PreTrainedModel:
    """A little away from that model, which it is said to come from."""
    model = model_of("float32")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model


def corpus() -> Corpus:
    """Three facts about each of five persons, and what is retained."""
    people = ("Ada Lane", "Bo Hart", "Cy Moss", "Di Wood", "El Reed")
    facts = tuple(
        Example(kind="qa", prompt=f"{what} of {who}?", completion=f"{who} has {what.lower()} {i}{k}.", perturbed=wrong)
        for i, who in enumerate(people)
        for k, what in enumerate(("Town", "Job", "Age"))
        for wrong in [(f"{who} has {what.lower()} {i}{k + 5}.", f"{who} has none.")]
    )
    return Corpus({"forget": facts, "retain": zoo.corpus()["retain"]}, "persons")
