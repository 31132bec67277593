"""Is the start model fit to be trained? Asked before anything is written."""

import math

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from expunge.core.batch import collate
from expunge.core.checks import ExpungeError
from expunge.core.distributed import gather, grouped
from expunge.models.anatomy import evaluating
from expunge.models.observe import observe
from expunge.training.rows import RunRows


def check_start(model: nn.Module, rows: RunRows, *, autocast: bool) -> None:
    """Raise for a start model that holds numbers that are not finite, or whose loss on a first row is none.

    Args:
        model: the start model.
        rows: the run's rows; the first that is met of each stream is looked at.
        autocast: compute in bfloat16 as training does.
    """
    if (name := non_finite_parameter(model)) is not None:
        raise ExpungeError(
            f"the start model is broken: {name} holds numbers that are not finite. Load another one, or make it again."
        )
    device = next(model.parameters()).device.type
    with evaluating(model):
        for stream, numbers in rows[0].rows.items():
            batch = collate([rows.encoded[stream][numbers[0]]])
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=autocast):
                seen = observe(model, {"rows": batch}, {"rows": frozenset({"token_logprobs"})})["rows"]
            assert seen.token_logprobs is not None
            loss = -float(torch.where(seen.completion_mask, seen.token_logprobs, 0.0).sum())
            if not math.isfinite(loss):
                dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
                raise ExpungeError(
                    f"the start model gives no finite loss on the first {stream} row ({loss}), though its weights "
                    f"({dtype}) are finite: a value inside it overflows. Load it in bfloat16 or float32 (dtype=...), "
                    "and evaluate it; the learning rate has no part in this."
                )


def non_finite_parameter(model: nn.Module) -> str | None:
    """Name of the first parameter that holds a NaN or an infinity on any rank; None where all are finite."""
    bad = {name: True for name, parameter in model.named_parameters() if not _finite(parameter)}
    return next(iter(gather(bad, dist.get_world_size() if grouped() else 1)), None)


def _finite(parameter: nn.Parameter) -> bool:
    own = parameter.detach()
    own = own.to_local() if isinstance(own, DTensor) else own
    if not own.numel() or not own.is_floating_point() or own.element_size() == 1:
        return True  # quantized weights
    return all(bool(torch.isfinite(edge)) for edge in own.aminmax())
