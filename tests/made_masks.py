"""Masks made by hand, of every unit."""

import re

import torch
from torch import nn

from expunge.masks.mask import Mask
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part, Unit
from expunge.models.anatomy import blocks, down_projection


def made_mask(
    model: nn.Module, unit: Unit = "weight", names: str = ".*", *, share: float = 0.25, seed: int = 0
) -> Mask:
    """A random mask of the parameters whose names match, with at least one unit of each group."""
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, Part] = {}
    for name, parameter in model.named_parameters():
        if re.search(names, name):
            cut = {"weight": "weights", "matrix": "whole"}.get(unit, "slices")
            parts[name] = Part(tuple(parameter.shape), cut, name, 0)  # type: ignore[arg-type]
    if unit in ("value_vector", "neuron"):
        parts = sliced(model, neurons=unit == "neuron", transposed="GPT2" in type(model).__name__)
    layout, bits = Layout(unit, parts), {}
    for group, units in layout.groups.items():
        chosen = torch.rand(units, generator=generator) < share
        chosen[0] = True
        bits[group] = pack(chosen)
    return Mask(layout, bits)


def sliced(model: nn.Module, *, neurons: bool, transposed: bool) -> dict[str, Part]:
    """Value vectors of every block, and with `neurons` the rows and biases that feed them."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    parts = {}
    for number, block in enumerate(blocks(model)):
        down = down_projection(block)
        inner = down.weight.shape[0 if transposed else 1]  # type: ignore[union-attr, index]
        found = {id(down.weight): 0 if transposed else 1}
        if neurons:
            for module in block.modules():
                weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
                if weight is None or weight.dim() != 2 or module is down:
                    continue
                if weight.shape[1 if transposed else 0] == inner:
                    found[id(weight)] = 1 if transposed else 0
                    if bias is not None:
                        found[id(bias)] = 0
        by_id = {id(parameter): parameter for parameter in block.parameters()}
        for key, dim in found.items():
            parts[name_of[key]] = Part(tuple(by_id[key].shape), "slices", f"block {number}", dim)
    return parts
