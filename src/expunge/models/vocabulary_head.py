"""The vocabulary head: from hidden states to logits, a bounded chunk of tokens at a time, forward and backward.

N = tokens, D = hidden size, V = vocabulary.
"""

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from expunge.models.anatomy import backbone, causal_lm, head
from expunge.models.fingerprint import whole
from expunge.models.placement import input_device

HEAD_CHUNK = 2**25
"""Most logits (tokens x vocabulary) computed at once; more are computed in chunks
and once more in the backward pass."""


@dataclass(frozen=True)
class Head:
    """How a model turns hidden states into logits."""

    module: nn.Module
    vocabulary: int
    plain: bool
    """Are decoder and head alone the model? Where not, the states are its logits already."""
    cap: float | None
    """Soft bound of the logits."""

    def __call__(self, states: Tensor) -> Tensor:
        """Logits, [..., V], of hidden states, [..., D]."""
        if not self.plain:
            return states
        logits: Tensor = self.module(states).to(states.device)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def frozen(self) -> "Head":
        """The head as it is now: a copy where training will change it, else itself."""
        if not self.plain or not any(p.requires_grad for p in self.module.parameters()):
            return self
        known: dict[int, Any] = {id(p): _frozen(p) for p in self.module.parameters()}
        return replace(self, module=_copied(self.module, known).eval())


def _copied(module: nn.Module, known: dict[int, Any]) -> nn.Module:
    """A copy with these parameters, by the identity of what they stand for; whole also where FSDP2 divides the module.

    FSDP2 puts a class of its own over that of a module and refuses copies, so the copy is of the class below.
    """
    if not isinstance(module, FSDPModule):
        return copy.deepcopy(module, known)
    plain = next(cls for cls in type(module).__mro__[1:] if not issubclass(cls, FSDPModule))
    made = cast(nn.Module, plain.__new__(plain))
    nn.Module.__init__(made)
    hooks = {name for name in made.__dict__ if name.startswith("_")}
    made.__dict__.update({k: v for k, v in module.__dict__.items() if k not in hooks})
    for name, parameter in module._parameters.items():
        made.register_parameter(name, None if parameter is None else known[id(parameter)])
    for name, child in module.named_children():
        made.add_module(name, _copied(child, known))
    return made


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(whole(parameter).detach().clone(), requires_grad=False)


def head_of(model: nn.Module) -> Head:
    """The vocabulary head of a causal language model, possibly wrapped; parameters stay shared with the model."""
    inner = causal_lm(model)
    config = inner.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(head(inner), config.vocab_size, _is_plain(inner, cap), cap)


_plain_heads: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def _is_plain(inner: nn.Module, cap: float | None) -> bool:
    """Do decoder and head alone give the model's own logits? Tried once."""
    if inner not in _plain_heads:
        device = input_device(inner)
        if device.type == "meta":
            return True
        ids = torch.arange(3, device=device)[None]
        with torch.no_grad():
            states = backbone(inner)(input_ids=ids, use_cache=False).last_hidden_state.to(device)
            ours = Head(head(inner), 0, True, cap)(states)
            theirs = original_forward(inner)(input_ids=ids, use_cache=False).logits.to(device)
        _plain_heads[inner] = torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-4)
    return _plain_heads[inner]


def in_chunks(
    score: Callable[..., Mapping[str, Tensor]], to_logits: Head, states: Tensor, *of_tokens: Tensor
) -> dict[str, Tensor]:
    """Score tokens by their logits, so many at a time that no more than `HEAD_CHUNK` logits are held.

    A single chunk keeps its logits for the backward pass. Several are computed once more there, one after the other.

    Args:
        score: called with the logits, [n, V], of some tokens and what `of_tokens` has of them; returns tensors of these
            tokens by name.
        to_logits: the head.
        states: hidden states, [N, D].
        of_tokens: more about these tokens, each [N, ...].

    Returns:
        By name, the scores of all tokens, [N, ...].
    """

    def scored(states: Tensor, *rest: Tensor) -> Mapping[str, Tensor]:
        return score(to_logits(states), *rest)

    size = max(1, HEAD_CHUNK // to_logits.vocabulary)
    if len(states) <= size:
        return dict(scored(states, *of_tokens))
    parts = zip(*(tensor.split(size) for tensor in (states, *of_tokens)), strict=True)
    found = [
        checkpoint(scored, *part, use_reentrant=False) if torch.is_grad_enabled() else scored(*part) for part in parts
    ]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def original_forward(inner: nn.Module) -> Callable[..., Any]:
    """The model's own forward pass, also inside `forward_replaced`."""
    replaced = inner.__dict__.get("_expunge_original_forward")
    return replaced if replaced is not None else inner.forward


@contextmanager
def forward_replaced(inner: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a call of the model run `forward` instead."""
    # The call still goes through the outermost wrapper, so that DDP and FSDP prepare their gradient exchange as ever.
    had = inner.__dict__.get("forward")
    inner.__dict__["_expunge_original_forward"] = inner.forward
    inner.forward = forward
    try:
        yield
    finally:
        del inner.__dict__["_expunge_original_forward"]
        if had is None:
            del inner.__dict__["forward"]
        else:
            inner.forward = had
