"""Dropout off while the training flag stays on, which gradient checkpointing asks for."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
