"""Masked training: what a mask does not select stays bit for bit as it is.

The selected entries of each parameter are held in a compact tensor. Gradients, clipping, both moments of AdamW, weight
decay and the update act on compact tensors alone, so nothing can reach the rest; after each step the entries are
written back into the parameter. Where the parameter is stored in 16 bits, the compact tensor is the float32 master
copy.

Source: the localization paper (arXiv:2505.16252) and WAGLE (arXiv:2410.17509). Departures from WAGLE's code, which
multiplies the gradient by the mask after clipping and before AdamW: there decoupled weight decay still shrinks every
weight outside the mask, and clipping uses the norm of the unmasked gradient.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from expunge.core.checks import ExpungeError, require_type
from expunge.core.manifest import fingerprint
from expunge.masks.mask import Mask
from expunge.masks.mask_fingerprint import fingerprint as fingerprint_of
from expunge.masks.units import Part
from expunge.models.anatomy import parameters_up_to
from expunge.models.fingerprint import whole
from expunge.objectives.combine import Objective
from expunge.training.sliced import route, slice_linear, slices_linear

HOLDER = "expunge_selected"
"""Name of the submodule that holds the compact tensors while a masked run lasts."""


@dataclass(frozen=True)
class Selection:
    """What may change of one parameter."""

    name: str
    parameter: nn.Parameter
    part: Part
    index: Tensor
    """Selected positions, [K]: flat, or along the part's dimension; int32, and int64 where that cannot count them."""
    everything: bool
    """Is all of the parameter selected?"""

    @property
    def flat(self) -> bool:
        """Are the positions flat ones?"""
        return self.part.cut == "weights"

    @property
    def count(self) -> int:
        """Number of selected weights."""
        return self.parameter.numel() if self.everything else len(self.index) * self.per_position

    @property
    def per_position(self) -> int:
        """Weights at each selected position."""
        return 1 if self.flat else self.parameter.numel() // self.part.units

    def gather(self, tensor: Tensor) -> Tensor:
        """From a tensor of the parameter's shape, the selected entries: [K], or slices along the part's dimension."""
        if self.everything:
            return tensor
        if self.flat:
            return tensor.reshape(-1).index_select(0, self.index)
        return tensor.index_select(self.part.dim, self.index)

    def scatter(self, values: Tensor, into: Tensor) -> None:
        """Write selected entries into a tensor of the parameter's shape, in its type; others are not touched."""
        values = values.to(into.dtype)
        if self.everything:
            into.copy_(values)
        elif self.flat:
            into.view(-1).index_copy_(0, self.index.long(), values)
        else:
            into.index_copy_(self.part.dim, self.index.long(), values)


def given_mask(mask: Mask | str | Path | None) -> Mask | None:
    """A mask as it is, or read from its file."""
    if isinstance(mask, str | Path):
        return Mask.load(mask)
    require_type("mask", mask, (Mask, type(None)), "a loaded mask, its file, or None")
    return mask


def mask_fingerprint(mask: Mask) -> str:
    """Fingerprint of what a mask selects, and in which units."""
    bits = {group: fingerprint(bits.cpu().numpy().tobytes()) for group, bits in mask.bits.items()}
    return fingerprint({"layout": mask.layout.to_json(), "bits": bits})


def mask_summary(model: nn.Module, mask: Mask) -> dict[str, Any]:
    """What a mask lets change of a model, for manifests.

    Units, weights, their share of all weights, `fingerprint`: where it is, by layer and kind, and `recipe`: how it was
    made, without seeds.
    """
    weights = sum(selection.count for selection in selections(model, mask))
    share = weights / sum(parameter.numel() for parameter in model.parameters())
    lies = asdict(fingerprint_of(mask))
    units = sum(mask.counts().values())
    return {
        "unit": mask.layout.unit,
        "units": units,
        "weights": weights,
        "share": share,
        "fingerprint": lies,
        "recipe": mask.recipe,
    }


def selections(model: nn.Module, mask: Mask) -> list[Selection]:
    """What a mask selects of a model, parameter by parameter; those with nothing selected are left out.

    Raises:
        ExpungeError: the mask does not fit (the first parameter that differs is named), selects nothing, or selects
            differently from the two names of one tied parameter.
    """
    mask.check(model)
    named = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[int, Selection] = {}
    for name, part in mask.layout.parts.items():
        parameter = named[name]
        index = mask.indices(name).to(torch.int32 if part.units <= 2**31 else torch.int64)
        everything = part.cut == "whole" or len(index) == part.units
        made = Selection(first[id(parameter)], parameter, part, index, everything)
        before = found.get(id(parameter), made)
        if (before.part.cut, before.part.dim) != (part.cut, part.dim) or not torch.equal(before.index, index):
            raise ExpungeError(
                f"'{before.name}' and '{name}' are one tied parameter, and the mask selects other parts of the two. "
                "Name it once."
            )
        found[id(parameter)] = made
    chosen = [selection for selection in found.values() if len(selection.index)]
    if not chosen:
        raise ExpungeError("the mask selects nothing, so nothing could change. Select at least one unit.")
    return chosen


class Selected(nn.Module):
    """The compact tensors of a masked run, one for each parameter that has a selected weight.

    It is a submodule of the model meanwhile, so that engines exchange its gradients and clip them; it writes nothing
    into a state dict.
    """

    def __init__(self, chosen: list[Selection]) -> None:
        super().__init__()
        self.chosen = chosen
        self.compact = [self._leaf(c) for c in chosen]
        for number, compact in enumerate(self.compact):
            self.register_parameter(f"compact_{number}", compact)
        self.shards = {c.name: _in_shard(c) for c in chosen if isinstance(c.parameter, DTensor)}

    @staticmethod
    def _leaf(selection: Selection) -> nn.Parameter:
        parameter = selection.parameter
        wide = torch.float32 if parameter.dtype in (torch.bfloat16, torch.float16) else parameter.dtype
        if selection.everything and wide == parameter.dtype and not isinstance(parameter, DTensor):
            return parameter  # its own compact tensor
        return nn.Parameter(selection.gather(whole(parameter.detach())).to(wide, copy=True).contiguous())

    def _save_to_state_dict(self, *_: Any) -> None:
        return  # the values are in the model's own parameters

    def _load_from_state_dict(self, *_: Any) -> None:
        return

    @property
    def count(self) -> int:
        """Number of weights that may change."""
        return sum(selection.count for selection in self.chosen)

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Copies of what the parameters hold in the selected places, on the CPU."""
        return {s.name: s.gather(whole(s.parameter.detach())).to("cpu", copy=True) for s in self.chosen}

    @torch.no_grad()
    def with_values(self, values: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Each parameter as it would be with other values in the selected places, one at a time, on the CPU."""
        for selection in self.chosen:
            put_back = whole(selection.parameter.detach()).to("cpu", copy=True)
            _on_device(selection, "cpu").scatter(values[selection.name], put_back)
            yield selection.name, put_back

    @torch.no_grad()
    def read(self) -> None:
        """Take the values from the parameters, such as after a checkpoint was loaded into them."""
        for selection, compact in zip(self.chosen, self.compact, strict=True):
            if compact is not selection.parameter:
                compact.copy_(selection.gather(whole(selection.parameter.detach())))

    @torch.no_grad()
    def write(self) -> None:
        """Put the values back into the parameters; nothing else of them is written."""
        for selection, compact in zip(self.chosen, self.compact, strict=True):
            if compact is selection.parameter:
                continue
            if isinstance(selection.parameter, DTensor):
                here, entries = self.shards[selection.name]
                shard = selection.parameter.to_local()
                shard.view(-1).index_copy_(0, here, compact.reshape(-1)[entries].to(shard.dtype))
            else:
                selection.scatter(compact, selection.parameter)

    def optimizer(
        self, kind: type[torch.optim.Optimizer], arguments: Mapping[str, Any], *, decay: float, decayed: set[str]
    ) -> torch.optim.Optimizer:
        """An elementwise optimizer whose state exists for selected entries only and which writes them back.

        Args:
            kind: `torch.optim.AdamW`, or another that treats each entry by itself.
            arguments: of its constructor, besides the parameters.
            decay: weight decay.
            decayed: names of the parameters that weight decay acts on.
        """
        self.read()
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for selection, compact in zip(self.chosen, self.compact, strict=True):
            groups[selection.name in decayed].append(compact)
        made = kind(
            [{"params": params, "weight_decay": decay if on else 0.0} for on, params in groups.items()], **arguments
        )
        made.register_step_post_hook(lambda *_: self.write())
        made.register_state_dict_post_hook(self._add_masters)
        made.register_load_state_dict_pre_hook(self._take_masters)
        return made

    def _masters(self) -> dict[str, Tensor]:
        """The values that the parameters cannot hold exactly."""
        pairs = zip(self.chosen, self.compact, strict=True)
        return {s.name: compact.detach() for s, compact in pairs if compact.dtype != s.parameter.dtype}

    def _add_masters(self, _optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "masters": self._masters()}

    @torch.no_grad()
    def _take_masters(self, _optimizer: Any, state: dict[str, Any]) -> None:
        for name, value in self._masters().items():
            value.copy_(state["masters"][name])


def reached_parameters(model: nn.Module, objective: Objective) -> set[int] | None:
    """Ids of the parameters that an objective can reach; None: all of them.

    Losses on hidden states (RMU and its retain loss) end at their block; what is above has no gradient.
    """
    shown = set().union(*objective.needs("current").values()) - {"completion_mask", "targets", "counts"}
    if shown != {"hidden"} or objective.layer is None:
        return None
    return {id(parameter) for parameter in parameters_up_to(model, objective.layer)}


def _in_shard(selection: Selection) -> tuple[Tensor, Tensor]:
    """Where selected entries are in this process's shard, and which of the compact tensor's entries these are."""
    parameter = selection.parameter
    assert isinstance(parameter, DTensor)
    numbers = torch.full(parameter.shape, -1, device=selection.index.device)
    shape = selection.gather(numbers).shape
    selection.scatter(torch.arange(shape.numel(), device=numbers.device).view(shape), numbers)
    local = distribute_tensor(numbers, parameter.device_mesh, parameter.placements).to_local().reshape(-1)
    here = (local >= 0).nonzero().flatten()
    return here, local[here]


@contextmanager
def masked(model: nn.Module, mask: Mask, *, reached: set[int] | None = None) -> Iterator[Selected]:
    """Let only what a mask selects have gradients meanwhile.

    Args:
        model: not wrapped yet.
        mask: fits the model.
        reached: ids of the parameters that the loss can reach; None: all. Selected weights of others stay as they are,
            and a warning says how many.

    Raises:
        ExpungeError: the mask does not fit, nothing of it is reached, or what it selects is frozen.
    """
    chosen = _within(reached, [_on_device(s, s.parameter.device) for s in selections(model, mask)])
    frozen = [selection.name for selection in chosen if not selection.parameter.requires_grad]
    if frozen:
        raise ExpungeError(
            f"the mask selects weights of {len(frozen)} parameters that are frozen, {frozen[0]} first. "
            "Call model.requires_grad_(True) if they may change."
        )
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    holder = Selected(chosen)
    undo: list[Callable[[], None]] = []
    model.requires_grad_(False)
    try:
        for selection, compact in zip(chosen, holder.compact, strict=True):
            compact.requires_grad_(True)
            if compact is not selection.parameter:
                undo += _replaced(model, selection, compact)
        model.add_module(HOLDER, holder)
        yield holder
    finally:
        model._modules.pop(HOLDER, None)
        for step in reversed(undo):
            step()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


def _on_device(selection: Selection, device: torch.device | str) -> Selection:
    return replace(selection, index=selection.index.to(device))


def _within(reached: set[int] | None, chosen: list[Selection]) -> list[Selection]:
    """The selections that the loss can reach; says how much of the mask is beyond."""
    if reached is None:
        return chosen
    found = [selection for selection in chosen if id(selection.parameter) in reached]
    if not found:
        raise ExpungeError(
            "the loss reaches none of the weights that the mask selects: all are above the decoder block whose output "
            "it reads. Choose a higher layer=..., or a mask below it."
        )
    if len(found) < len(chosen):
        beyond = 1 - sum(s.count for s in found) / sum(s.count for s in chosen)
        warnings.warn(
            f"{beyond:.1%} of the weights that the mask selects are above the decoder block whose output the loss "
            "reads; they have no gradient and stay as they are.",
            stacklevel=2,
        )
    return found


def _replaced(model: nn.Module, selection: Selection, compact: nn.Parameter) -> list[Callable[[], None]]:
    """Send the gradient to the compact tensor, in every module that uses the parameter."""
    sliced = selection.part.cut == "slices" and not selection.everything
    undo = []
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not selection.parameter:
                continue
            if sliced and slices_linear(module, name):
                undo.append(slice_linear(module, compact, selection.index, selection.part.dim))
            else:
                undo.append(route(module, name, compact, selection.gather))
    return undo
