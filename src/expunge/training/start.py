"""Is the start model fit to be trained? Asked before anything is written."""

import math

from torch import nn

from expunge.core.checks import ExpungeError
from expunge.models.finite import check_finite
from expunge.objectives.combine import Stream
from expunge.training.outcome import Scored, scored
from expunge.training.rows import RunRows


def check_start(model: nn.Module, rows: RunRows, *, autocast: bool) -> dict[Stream, Scored]:
    """The probabilities of the run's rows under the start model, which must be finite numbers, as its weights must.

    Args:
        model: the start model.
        rows: the run's rows; some of each set are looked at.
        autocast: compute in bfloat16 as training does.
    """
    check_finite(model, "start model")
    found = scored(model, rows, autocast=autocast)
    for stream, of in found.items():
        if math.isnan(of.mean):
            dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
            raise ExpungeError(
                f"the start model gives no finite loss on rows of the {stream} set, though its weights ({dtype}) are "
                "finite: a value inside it overflows. Load it in bfloat16 or float32 (dtype=...), and evaluate it; the "
                "learning rate has no part in this."
            )
    return found
