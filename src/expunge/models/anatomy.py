"""Where the parts of a causal language model are, found by structure rather than by a list of families."""

from torch import nn

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


def parameters_up_to(model: nn.Module, layer: int) -> list[nn.Parameter]:
    """The parameters that the output of decoder block `layer` depends on: those of earlier modules and of itself."""
    last = blocks(model)[layer]
    found: list[nn.Parameter] = []
    for module in backbone(model).modules():  # in the order in which they were registered, which is that of use
        if module is last:
            return [*found, *last.parameters()]
        found += module.parameters(recurse=False)
    raise AssertionError("the blocks lie in the backbone")


_DOWN_PROJECTIONS = ("mlp.down_proj", "mlp.fc2", "mlp.c_proj", "mlp.dense_4h_to_h", "fc2")


def down_projection(block: nn.Module) -> nn.Module:
    """The linear layer of a decoder block's MLP that writes back into the residual stream."""
    modules: dict[str, nn.Module] = dict(block.named_modules())
    for name in _DOWN_PROJECTIONS:
        if name in modules:
            return modules[name]
    linear = [
        name for name, module in modules.items() if hasattr(module, "weight") and "attn" not in name and "." in name
    ]
    raise ExpungeError(
        f"cannot tell which linear layer of {type(block).__name__} is the MLP's down-projection; "
        f"it holds {', '.join(linear)}."
    )
