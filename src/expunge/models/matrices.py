"""The weight matrices of a model's decoder blocks: which linear layers there are, and choosing among them."""

import math
import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.core.checks import ExpungeError
from expunge.models.anatomy import blocks, causal_lm, down_projection, is_linear


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers of the decoder blocks by their full name; never head, embeddings or norms."""
    inner = causal_lm(model)
    stack = blocks(inner)
    place = next(name for name, module in inner.named_modules() if module is stack)
    return {
        f"{place}.{name}": module for name, module in stack.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }


def target_matrices(model: nn.Module, targets: str) -> tuple[str, ...]:
    """Names of the linear layers that an adapter is attached to.

    Args:
        model: a causal language model.
        targets: `all-linear`, `attention`, `mlp`, or a regular expression that is looked for in the names.

    Raises:
        ExpungeError: a broken expression, or one that finds nothing; the message lists names.
    """
    layers = linear_layers(model)
    if not layers:
        raise ExpungeError(f"the decoder blocks of {type(causal_lm(model)).__name__} hold no linear layer to adapt.")
    if targets == "all-linear":
        return tuple(layers)
    if targets in ("attention", "mlp"):
        found = [name for name in layers if _in_attention(name) == (targets == "attention")]
    else:
        try:
            found = [name for name in layers if re.search(targets, name)]
        except re.error as error:
            raise ExpungeError(
                f"targets={targets!r} is neither all-linear, attention nor mlp, nor a regular expression: {error}."
            ) from error
    if not found:
        share, other = uncovered(model)
        first = list(layers)[: len(layers) // len(blocks(causal_lm(model)))]
        raise ExpungeError(
            f"targets={targets!r} finds none of the {len(layers)} linear layers of the decoder blocks. Those of the "
            f"first block: {', '.join(first)}."
            + (f" {share:.1%} of the blocks' weights, such as {other}, are in no linear layer." if other else "")
        )
    return tuple(found)


def _in_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.split("."))


def uncovered(model: nn.Module) -> tuple[float, str | None]:
    """(share of the decoder blocks' weights that is outside their linear layers, name of the largest one there).

    Experts are such: transformers keeps those of a layer as one parameter of three dimensions. Vectors don't count.
    """
    stack = blocks(causal_lm(model))
    place = next(name for name, module in causal_lm(model).named_modules() if module is stack)
    layers = linear_layers(model)
    inside = sum(math.prod(shape_of(layer)) for layer in layers.values())
    others = {
        f"{place}.{name}": p.numel()
        for name, p in stack.named_parameters()
        if p.dim() > 1 and f"{place}.{name}".rpartition(".")[0] not in layers
    }
    outside = sum(others.values())
    return (outside / (inside + outside), max(others, key=others.__getitem__)) if others else (0.0, None)


def down_projections(model: nn.Module, layer: int) -> tuple[str, ...]:
    """Names of the parameters that are the MLP down-projections of the three blocks up to `layer`.

    Experts that are kept in one parameter of three dimensions have their down-projections in one, too.

    Raises:
        ExpungeError: a block without any that is known.
    """
    inner = causal_lm(model)
    stack = blocks(inner)
    place = next(name for name, module in inner.named_modules() if module is stack)
    found: list[str] = []
    for number in range(max(0, layer - 2), layer + 1):
        block = stack[number]
        experts = [n for n, p in block.named_parameters() if p.dim() == 3 and n.endswith((".down_proj", ".w2"))]
        shared = [f"{n}.weight" for n, m in block.named_modules() if n.endswith(".down_proj") and is_linear(m)]
        own = [*experts, *shared] if experts else _own_down_projection(block)
        found += [f"{place}.{number}.{name}" for name in own]
    return tuple(found)


def _own_down_projection(block: nn.Module) -> list[str]:
    try:
        down = down_projection(block)
    except ExpungeError as error:
        raise ExpungeError(
            f"cannot identify the MLP's down-projection in {type(block).__name__}, which this method trains unless "
            "something else is named. Name it by a mask, mask=<file> (expunge localize unit=matrix makes one), or by "
            "an adapter's targets: adapter=lora targets=<expression>."
        ) from error
    return [f"{name}.weight" for name, module in block.named_modules() if module is down]


def block_of(model: nn.Module, name: str) -> int:
    """Number of the decoder block that a linear layer stands in."""
    stack = blocks(causal_lm(model))
    place = next(n for n, module in causal_lm(model).named_modules() if module is stack)
    return int(name.removeprefix(f"{place}.").partition(".")[0])


def as_out_in(module: nn.Module, weight: Tensor) -> Tensor:
    """A layer's weight, or its gradient, as [out, in]; GPT-2 keeps its own the other way round."""
    return weight.T if isinstance(module, Conv1D) else weight


def matrices_out_in(model: nn.Module) -> Iterator[Tensor]:
    """The weights of the blocks' linear layers as [out, in]; writing into them changes the model."""
    for module in linear_layers(model).values():
        assert isinstance(module.weight, Tensor)
        yield as_out_in(module, module.weight)


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    assert isinstance(module, nn.Linear)  # quantized layers keep their weights packed, and their sizes as attributes
    return module.out_features, module.in_features


def parameter_count(model: nn.Module, names: Sequence[str], rank: int) -> int:
    """Numbers in the factors A and B of a rank on these layers."""
    layers = linear_layers(model)
    return sum(rank * sum(shape_of(layers[name])) for name in names)


def weight_bytes(model: nn.Module, width: int, bits: int | None) -> float:
    """Bytes of a model's weights.

    Args:
        model: a skeleton.
        width: bytes of a number.
        bits: what the linear layers in the blocks are kept in; None: all is as wide. Scales are left out.
    """
    everything: int = sum(p.numel() for p in model.parameters())
    if bits is None:
        return everything * width
    linear: int = sum(math.prod(shape_of(layer)) for layer in linear_layers(model).values())
    return (everything - linear) * width + linear * bits / 8
