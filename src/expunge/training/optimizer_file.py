"""The state of an optimizer over divided weights, as one file of whole tensors for any number of processes.

transformers stores what the first process holds, which is only its part of each weight.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers.trainer import OPTIMIZER_NAME

from expunge.core.checks import ExpungeError
from expunge.core.distributed import is_main
from expunge.core.nested import flattened
from expunge.core.tensor_file import reading, save_tensors
from expunge.models.fingerprint import whole

FILE = "optimizer.safetensors"
_REST = "rest"
"""In the header of the file: what is no tensor, as JSON."""


def divided_as(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor what this process holds, on the device of another and divided as that is.

    Args:
        tensor: the same on every process, of the shape of `like`.
        like: a parameter.
    """
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def write_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Gather the state of an optimizer, tensor by tensor, and write it into a checkpoint.

    All processes must ask for it; the first one holds the whole state in the memory of its CPU, and writes.

    Args:
        optimizer: over parameters that may be divided among processes.
        folder: of the checkpoint, which is there.

    Raises:
        ExpungeError: the optimizer keeps state of divided weights that cannot be gathered.
    """
    state = optimizer.state_dict()
    parameters = _parameters(optimizer)
    for number, values in state["state"].items():
        if isinstance(parameters[number], DTensor):
            _check_divided(values)
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    numbered = {str(number): values for number, values in state["state"].items()}
    for name, value in flattened({**state, "state": numbered}).items():
        if not isinstance(value, Tensor):
            rest[name] = value
            continue
        gathered = whole(value.detach())
        if is_main():
            tensors[name] = gathered.cpu().contiguous()
    if is_main():
        save_tensors(tensors, folder / FILE, {_REST: json.dumps(rest)})


def read_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Take the state of an optimizer from a checkpoint, of whole or of divided weights.

    Args:
        optimizer: over the same parameters, whole or divided among any number of processes.
        folder: of the checkpoint.

    Raises:
        ExpungeError: the state is of other parameters.
    """
    state = _whole_state(folder)
    parameters = _parameters(optimizer)
    if len(state["state"]) > len(parameters):
        raise ExpungeError(
            f"{folder} holds the optimizer's state of {len(state['state'])} tensors, and {len(parameters)} are trained."
        )
    held = {
        number: {key: _held(value, parameters[number], folder) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": held})


def holds_gathered(folder: Path) -> bool:
    """Was a checkpoint written by `write_optimizer`?"""
    return (folder / FILE).is_file()


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """Parameters in the order in which the state of an optimizer numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check_divided(values: dict[str, Any]) -> None:
    own = [key for key, v in values.items() if isinstance(v, Tensor) and v.dim() and not isinstance(v, DTensor)]
    if own:
        raise ExpungeError(
            f"the optimizer keeps {', '.join(own)} of divided weights in a form of its own, which cannot be gathered "
            "into a checkpoint. Use optimizer=adamw, or checkpoint_every=0."
        )


def _held(value: Any, parameter: Tensor, folder: Path) -> Any:
    """A value of the state as this process holds it: a part where the parameter is one."""
    if not isinstance(value, Tensor) or not value.dim():
        return value
    if value.shape != parameter.shape:
        raise ExpungeError(
            f"{folder} holds the optimizer's state of a tensor of shape {list(value.shape)}, where one of "
            f"{list(parameter.shape)} is trained."
        )
    return divided_as(value, parameter).clone()  # what was read is a view of the file


def _whole_state(folder: Path) -> dict[str, Any]:
    """The state dict in a checkpoint, with whole tensors that are read once they are used."""
    path = folder / FILE
    if not path.is_file():
        stock: dict[str, Any] = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", mmap=True, weights_only=True)
        return stock
    with reading(path, "optimizer state"), safe_open(path, framework="pt") as file:
        found = json.loads(file.metadata()[_REST]) | {name: file.get_tensor(name) for name in file.keys()}
        return _nested(found)


def _nested(found: dict[str, Any]) -> dict[str, Any]:
    """The state dict of flat names; names of parameters have dots themselves."""
    state: dict[str, Any] = {"state": {}}
    for name, value in found.items():
        part, _, inner = name.partition(".")
        number, _, key = inner.partition(".")
        if not inner:
            state[part] = value
        elif part == "state":
            state[part].setdefault(int(number), {})[key] = value
        else:
            state.setdefault(part, {})[inner] = value
    return state
