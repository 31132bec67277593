"""Which parameters of a model are scored, and how they are cut into units."""

import re
from collections.abc import Iterator, Sequence

from torch import nn

from expunge.core.checks import ExpungeError, require_names
from expunge.masks.units import Layout, Part, Unit
from expunge.models.anatomy import (
    blocks,
    causal_lm,
    down_projection,
    is_linear,
    mlp_layers,
    output_dim,
    up_projections,
)

SETS = ("linear", "mlp", "down", "attention", "all")
"""Sets of modules that go by name; `linear` is all linear layers of the decoder blocks."""

Modules = str | Sequence[str]


def layout(
    model: nn.Module, *, unit: Unit = "value_vector", modules: Modules | None = None, down_projection: str | None = None
) -> Layout:
    """Cut the parameters of a model into units.

    A tied tensor counts once, under its first name. Embeddings, norms, biases and the head are in `all` and in patterns
    that match them only; the bias of a down-projection belongs to no value vector and no neuron.

    Args:
        model: a causal language model, possibly wrapped.
        unit: `weight` (a scalar), `value_vector` (an input channel of the MLP's down-projection), `neuron` (the value
            vector with its rows, and bias entries, of gate and up projection), or `matrix` (a whole parameter).
        modules: for weights and matrices: `linear` (default), `mlp`, `down`, `attention` (linear layers of the blocks
            outside the MLP), `all` (every parameter), regular expressions for parameter names, or a list of these. For
            value vectors and neurons: `mlp` (default), or regular expressions for the down-projection's name.
        down_projection: where the MLP's down-projection is inside a decoder block, for families not known here.

    Raises:
        ExpungeError: a pattern that matches nothing, an MLP whose parts cannot be identified, parameters of a block
            that are neither linear layers nor vectors.
    """
    inner = causal_lm(model)
    if unit in ("value_vector", "neuron"):
        parts = _sliced(inner, unit, modules, down_projection)
    else:
        dims = {id(m.weight): output_dim(m) for m in inner.modules() if is_linear(m)}
        chosen = _chosen(inner, "linear" if modules is None else modules, down_projection)
        cut = "weights" if unit == "weight" else "whole"
        parts = {
            name: Part(tuple(p.shape), cut, name, dims.get(id(p), 0) if unit == "weight" else 0)  # type: ignore[arg-type]
            for name, p in inner.named_parameters()
            if name in chosen
        }
    return Layout(unit, parts)


def _sliced(inner: nn.Module, unit: Unit, modules: Modules | None, down: str | None) -> dict[str, Part]:
    asked = _asked("mlp" if modules is None else modules)
    allowed = ("mlp", "down") if unit == "value_vector" else ("mlp",)
    if wrong := [name for name in asked if name in SETS and name not in allowed]:
        raise ExpungeError(
            f"unit={unit} is in the MLPs, so modules is {' or '.join(allowed)}, or patterns for the names of "
            f"down-projections; got {wrong[0]}."
        )
    patterns = [".*" if name in SETS else name for name in asked]
    layers = [(block, down_projection(block, down)) for block in blocks(inner)]
    names = {id(p): name for name, p in inner.named_parameters()}
    for pattern in patterns:
        _matching(pattern, [names[id(layer.weight)] for _, layer in layers], "down-projection")
    found: dict[str, Part] = {}
    for block, layer in layers:
        group = names[id(layer.weight)]
        if not any(re.search(pattern, group) for pattern in patterns):
            continue
        found[group] = Part(tuple(layer.weight.shape), "slices", group, 1 - output_dim(layer))  # type: ignore[arg-type]
        for up in up_projections(block, down) if unit == "neuron" else ():
            found[names[id(up.weight)]] = Part(tuple(up.weight.shape), "slices", group, output_dim(up))  # type: ignore[arg-type]
            if up.bias is not None:
                found[names[id(up.bias)]] = Part(tuple(up.bias.shape), "slices", group)  # type: ignore[arg-type]
    return {name: found[name] for name, _ in inner.named_parameters() if name in found}


def _chosen(inner: nn.Module, modules: Modules, down: str | None) -> set[str]:
    """Names of the parameters in sets of modules or with a name that a pattern matches."""
    found: set[str] = set()
    for name in _asked(modules):
        if name in SETS:
            found |= _of_set(inner, name, down)
        else:
            found |= _matching(name, [known for known, _ in inner.named_parameters()], "parameter")
    return found


def _of_set(inner: nn.Module, name: str, down: str | None) -> set[str]:
    names = {id(p): known for known, p in inner.named_parameters()}
    if name == "all":
        return set(names.values())
    if name == "down":
        return {names[id(down_projection(block, down).weight)] for block in blocks(inner)}  # type: ignore[arg-type]
    found: set[str] = set()
    for block in blocks(inner):
        _check_known(block, names)
        mlp = [] if name == "linear" else mlp_layers(block, down)
        for layer in _linear(block):
            of_mlp = any(layer is other for other in mlp)
            if name == "linear" or of_mlp == (name == "mlp"):
                found.add(names[id(layer.weight)])
    return found


def _asked(modules: Modules) -> list[str]:
    """Sets and patterns as a list."""
    if not isinstance(modules, str):
        require_names("modules", modules)
    asked = [modules] if isinstance(modules, str) else list(modules)
    if not asked:
        raise ExpungeError(f"modules is an empty list. Give patterns for names, or one of {', '.join(SETS)}.")
    return asked


def _matching(pattern: str, names: Sequence[str], what: str) -> set[str]:
    """Names that a pattern matches; at least one."""
    try:
        found = {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise ExpungeError(f"modules: '{pattern}' is not a regular expression ({error}).") from error
    if not found:
        raise ExpungeError(
            f"modules: '{pattern}' matches the name of no {what}; they go from {names[0]} to {names[-1]}. "
            f"Sets by name: {', '.join(SETS)}."
        )
    return found


def _linear(block: nn.Module) -> Iterator[nn.Module]:
    return (module for module in block.modules() if is_linear(module))


def _check_known(block: nn.Module, names: dict[int, str]) -> None:
    known = {id(layer.weight) for layer in _linear(block)}
    for parameter in block.parameters():
        if parameter.dim() > 1 and id(parameter) not in known:
            raise ExpungeError(
                f"{names[id(parameter)]} is {list(parameter.shape)} and no linear layer's weight (experts are often "
                "kept in one tensor). Say by patterns what is meant: modules=['<regular expression>', ...]."
            )
