"""Where the parts of a causal language model are, found by structure rather than by a list of families."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.pytorch_utils import Conv1D

from expunge.core.checks import ExpungeError


def causal_lm(model: nn.Module) -> nn.Module:
    """The causal language model inside wrappers: distributed, compiled, or PEFT."""
    inner = model
    while True:
        if hasattr(inner, "get_base_model"):  # PEFT
            inner = inner.get_base_model()  # type: ignore[operator]
        elif isinstance(getattr(inner, "module", None), nn.Module):  # DistributedDataParallel and the like
            inner = inner.module  # type: ignore[assignment]
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):  # torch.compile
            inner = inner._orig_mod  # type: ignore[assignment]
        else:
            return inner


def head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits."""
    found = getattr(model, "get_output_embeddings", lambda: None)()
    if found is None:
        raise ExpungeError(f"{type(model).__name__} has no output embeddings, so it is not a causal language model.")
    return found  # type: ignore[no-any-return]


def backbone(model: nn.Module) -> nn.Module:
    """The decoder: token ids in, normalized hidden states out."""
    found = getattr(model, "get_decoder", lambda: None)()
    if found is None or found is model:
        found = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if found is None:
        raise ExpungeError(f"cannot find the decoder inside {type(model).__name__}.")
    return found  # type: ignore[no-any-return]


def blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks in order: the module list that is as long as the configuration says."""
    depth = model.config.get_text_config(decoder=True).num_hidden_layers  # type: ignore[union-attr, operator]
    found = [m for m in backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not found:
        raise ExpungeError(f"cannot find the {depth} decoder blocks of {type(model).__name__}.")
    return found[0]


def size_of(model: nn.Module) -> int:
    """Parameters of a causal language model; those packed into fewer bits count as what they stand for."""
    return int(causal_lm(model).num_parameters())  # type: ignore[operator, union-attr]


def parameters_up_to(model: nn.Module, layer: int) -> list[nn.Parameter]:
    """The parameters that the output of decoder block `layer` depends on: those of earlier modules and of itself."""
    last = blocks(model)[layer]
    found: list[nn.Parameter] = []
    for module in backbone(model).modules():  # in the order in which they were registered, which is that of use
        if module is last:
            return [*found, *last.parameters()]
        found += module.parameters(recurse=False)
    raise AssertionError("the blocks are in the backbone")


_DOWN_PROJECTIONS = ("mlp.down_proj", "mlp.fc2", "mlp.c_proj", "mlp.dense_4h_to_h", "fc2")


def down_projection(block: nn.Module, name: str | None = None) -> nn.Module:
    """The linear layer of a decoder block's MLP that writes back into the residual stream.

    Args:
        block: a decoder block.
        name: where it is inside the block, for families that are not known here, such as `mlp.down_proj`.

    Raises:
        ExpungeError: there is none, or none of that name; the message lists the linear layers that could be meant.
    """
    modules: dict[str, nn.Module] = dict(block.named_modules())
    for known in _DOWN_PROJECTIONS if name is None else (name,):
        if known in modules and is_linear(modules[known]):
            return modules[known]
    linear = [key for key, module in modules.items() if is_linear(module) and "attn" not in key]
    if not linear and name is None:
        raise ExpungeError(
            f"{type(block).__name__}: its MLP has no linear layer (experts are kept in one parameter), so value "
            "vectors and neurons cannot be identified. Use unit=weight or unit=matrix."
        )
    what = "cannot identify which linear layer is" if name is None else f"'{name}' is not"
    raise ExpungeError(
        f"{type(block).__name__}: {what} the MLP's down-projection; it holds {', '.join(linear) or 'none'}. "
        "Name it inside the block: down_projection=<name>."
    )


def is_linear(module: nn.Module) -> bool:
    """Is this a linear layer? GPT-2's transposed ones are."""
    return isinstance(module, nn.Linear | Conv1D)


def output_dim(module: nn.Module) -> int:
    """The dimension of a linear layer's weight that counts outputs: 0, and 1 where it is stored transposed (GPT-2)."""
    return 1 if isinstance(module, Conv1D) else 0


def mlp_layers(block: nn.Module, name: str | None = None) -> list[nn.Module]:
    """The linear layers of a decoder block's MLP: those that are next to its down-projection, and that one itself.

    Args:
        block: a decoder block.
        name: where its down-projection is, as in `down_projection`.
    """
    down = down_projection(block, name)
    beside = next(list(m.children()) for m in block.modules() if any(child is down for child in m.children()))
    return [module for module in beside if is_linear(module)]


def up_projections(block: nn.Module, name: str | None = None) -> list[nn.Module]:
    """The linear layers whose outputs become the inputs of the down-projection: gate and up, or up alone.

    Raises:
        ExpungeError: there is none of the right size, as where gate and up are in one matrix.
    """
    down = down_projection(block, name)
    channels = down.weight.shape[1 - output_dim(down)]  # type: ignore[union-attr,index]
    beside = [module for module in mlp_layers(block, name) if module is not down]
    found = [module for module in beside if module.weight.shape[output_dim(module)] == channels]  # type: ignore[union-attr,index]
    if not found:
        shapes = ", ".join(str(list(module.weight.shape)) for module in beside)  # type: ignore[union-attr,arg-type]
        raise ExpungeError(
            f"{type(block).__name__}: no linear layer beside the down-projection has its {channels} channels as "
            f"outputs, so neurons cannot be identified; their weights are {shapes or 'none'}. Use unit=value_vector."
        )
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode meanwhile, and each of its modules in its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Set every dropout rate inside `model` to 0 and put it back afterwards.

    Losses compare a model with its frozen start model; dropout would make the two differ before the first step. That of
    an adapter stays: whoever sets it asks for it.
    """
    changed: list[tuple[nn.Module, str, float]] = []
    for name, module in model.named_modules():
        if ".lora_dropout" in name:
            continue
        if isinstance(module, nn.Dropout):
            changed.append((module, "p", module.p))
        # Attention modules hand their rate to a function instead of holding a Dropout.
        changed += [(module, k, v) for k, v in vars(module).items() if "drop" in k and isinstance(v, float) and v > 0]
    for module, name, _ in changed:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)
