"""Activations that cost next to nothing to compute are not kept for the backward pass, but computed again there.

The result of an elementwise operation (an activation function, the product in a gated MLP, the scaling in a norm, a
change of type) follows from tensors that autograd keeps anyway, for the gradient of that very operation. Where another
operation would keep the result too, such as the matrix product that reads it, the way to it is kept in its place. The
values are the same bits, and what is not needed for a gradient is not kept either way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_VIEWS = frozenset({"ViewBackward0", "UnsafeViewBackward0"})
_CASTS = frozenset({"ToCopyBackward0"})
_MOST = 8
"""Operations that one tensor is computed again by, at most: a result that feeds both factors of a product, again and
again, would take twice as many each time."""
_COST = "expunge: operations"
"""Where a node notes them, once its result is not kept."""


@contextmanager
def recomputed() -> Iterator[None]:
    """What is computed meanwhile keeps fewer activations for its backward pass."""
    with torch.autograd.graph.saved_tensors_hooks(_packed, _unpacked):
        yield


@dataclass(frozen=True)
class _Way:
    """To a tensor that is not kept: the autograd node that made it."""

    node: Any


def _packed(tensor: Tensor) -> Tensor | _Way:
    node: Any = tensor.grad_fn
    cost = _cost(node) if node is not None else None
    if cost is not None:
        node.metadata[_COST] = cost
        return _Way(node)
    # An operation may keep its own result, which refers to the operation: a circle, unless it is cut here.
    return tensor if tensor.is_leaf else tensor.detach()


@torch.no_grad()
def _unpacked(kept: Tensor | _Way) -> Tensor:
    return _value(kept.node) if isinstance(kept, _Way) else kept


def _cost(node: Any, most: int = _MOST) -> int | None:
    """Operations by which the result of an operation follows from tensors that are kept; None: it does not by `most`.

    Its operands come from what the operation keeps, or from what comes before it in the same way.
    """
    name = node.name()
    before: int | None
    if most < 1:
        return None
    if name in ("SiluBackward0", "GeluBackward0"):
        before = _cost_of_saved(node.next_functions[0][0])
    elif name == "MulBackward0":
        # A factor is kept where the other one has a gradient.
        (left, _), (right, _) = node.next_functions
        factors = (
            _cost_of_saved(left) if right is not None else _cost(left, most - 1),
            _cost_of_saved(right) if left is not None else _cost(right, most - 1),
        )
        before = None if None in factors else sum(filter(None, factors))
    elif name in _VIEWS or name in _CASTS:
        before = _cost(node.next_functions[0][0], most - 1)
    else:
        return None
    return None if before is None or before >= most else before + 1


def _cost_of_saved(node: Any) -> int:
    """Operations by which a saved tensor is had, by the node that made it: none where it is kept."""
    return 0 if node is None else int(node.metadata.get(_COST, 0))


def _value(node: Any) -> Tensor:
    """The result of an operation that has a way."""
    name = node.name()
    if name == "SiluBackward0":
        return F.silu(node._saved_self)
    if name == "GeluBackward0":
        return F.gelu(node._saved_self, approximate=node._saved_approximate)
    if name == "MulBackward0":
        left, right = node._saved_self, node._saved_other
        left = _value(node.next_functions[0][0]) if left is None else left
        return left * (_value(node.next_functions[1][0]) if right is None else right)
    (made,) = node._input_metadata  # of the gradient that the node takes: shape, type and device of its result
    before = _value(node.next_functions[0][0])
    return before.to(made.device, made.dtype) if name in _CASTS else before.view(tuple(made.shape))
