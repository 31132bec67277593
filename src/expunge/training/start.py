"""Is the start model fit to be trained? Asked before anything is written."""

import math

import torch
from torch import nn

from expunge.core.batch import collate
from expunge.core.checks import ExpungeError
from expunge.models.anatomy import evaluating
from expunge.models.finite import check_finite
from expunge.models.observe import observe
from expunge.training.rows import RunRows


def check_start(model: nn.Module, rows: RunRows, *, autocast: bool) -> None:
    """Raise for a start model that holds numbers that are not finite, or whose loss on a first row is none.

    Args:
        model: the start model.
        rows: the run's rows; the first that is met of each stream is looked at.
        autocast: compute in bfloat16 as training does.
    """
    check_finite(model, "start model")
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
