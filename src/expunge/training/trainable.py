"""Which parameters a run trains when no mask and no adapter says so."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from torch import nn

from expunge.core.checks import ExpungeError
from expunge.models.matrices import down_projections
from expunge.objectives.combine import Objective


@contextmanager
def trainable(model: nn.Module, objective: Objective) -> Iterator[None]:
    """Only what the method trains by default has gradients meanwhile; a PEFT model trains what it came with.

    Args:
        model: what is trained.
        objective: its method says which: all, or the down-projections of the three blocks up to its layer.

    Raises:
        ExpungeError: parameters are frozen that the method trains.
    """
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    forget, layer = objective.forget, objective.layer
    if isinstance(model, PeftModel):
        pass
    elif forget is None or forget.method.trains == "all":
        frozen = sum(not wanted for wanted in before.values())
        if frozen:
            raise ExpungeError(
                f"{frozen} of the model's parameters are frozen, and unlearning trains all of them. "
                "Call model.requires_grad_(True) if that is meant."
            )
    elif layer is None:
        raise ExpungeError(f"{forget.name} trains the down-projections up to its layer, and no layer is known.")
    else:
        model.requires_grad_(False)
        for name in down_projections(model, layer):
            model.get_parameter(name).requires_grad_(True)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
