"""Are a model's weights numbers? What is measured or trained on others means nothing."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from expunge.core.checks import ExpungeError
from expunge.core.distributed import ranks
from expunge.models.placement import kept_weights


def check_finite(model: nn.Module, what: str = "model") -> None:
    """Raise where a weight is a NaN or an infinity.

    Args:
        model: on any device, whole or sharded.
        what: it is, for the message.
    """
    if (name := non_finite_parameter(model)) is not None:
        raise ExpungeError(
            f"the {what} is broken: {name} holds numbers that are not finite. Load another one, or make it again."
        )


def non_finite_parameter(model: nn.Module) -> str | None:
    """Name of the first parameter that holds a NaN or an infinity on any rank; None where all are finite."""
    bad = {name: True for name, weight in kept_weights(model) if not _finite(weight)}
    return next(iter(ranks().gathered(bad)), None)


def _finite(weight: Tensor) -> bool:
    own = weight.to_local() if isinstance(weight, DTensor) else weight
    if not own.numel() or not own.is_floating_point() or own.element_size() == 1:
        return True  # quantized weights
    return all(bool(torch.isfinite(edge)) for edge in own.aminmax())
