"""A training step waits for the device once, for the numbers of its history row.

The processor stands in for an accelerator: the model's tensors count as being on it, so does what is moved there with
`Tensor.to` and what is computed from either; a number, list, truth value or list of positions read off such a tensor is
what would make a real one wait.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import expunge
import zoo
from expunge.masks.mask import Mask
from expunge.training import loss
from expunge.training.trainer import ObjectiveTrainer

READS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}
ATEN = torch.ops.aten
WAITS = {
    ATEN._local_scalar_dense,
    ATEN.nonzero,
    ATEN.is_nonzero,
    ATEN.masked_select,
    ATEN._unique2,
    ATEN.unique_dim,
    ATEN.equal,
    ATEN.repeat_interleave,
}


class StandIn:
    """Which tensors count as being on the accelerator, and what was read off them."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.waits: Counter[str] = Counter()

    def put(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.there:
            self.there.add(storage._cdata)
            weakref.finalize(storage, self.there.discard, storage._cdata)

    def holds(self, found: Any) -> bool:
        return isinstance(found, Tensor) and found.untyped_storage()._cdata in self.there


class Calls(TorchFunctionMode):
    def __init__(self, device: StandIn) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS and self.device.holds(args[0]):
            self.device.waits[func.__name__] += 1
            return func(args[0].detach().clone(), *args[1:], **kwargs)
        found = func(*args, **kwargs)
        if func is Tensor.to and any(isinstance(a, torch.device) for a in (*args[1:], *kwargs.values())):
            found = found.clone() if found is args[0] and not self.device.holds(found) else found
            self.device.put(found)
        return found


class Kernels(TorchDispatchMode):
    def __init__(self, device: StandIn) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_device = any(self.device.holds(leaf) for leaf in tree_leaves((args, kwargs)))
        found = func(*args, **(kwargs or {}))
        if not on_device:
            return found
        kernel = func.overloadpacket
        by_truth = kernel in (ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_) and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if kernel in WAITS or by_truth:
            self.device.waits[str(kernel)] += 1
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self.device.put(leaf)
        return found


def waits_of(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[Counter[str]]:
    """What a run reads off the device, by optimizer step."""
    device, steps = StandIn(), list[Counter[str]]()
    begin, train = ObjectiveTrainer.get_batch_samples, ObjectiveTrainer._inner_training_loop

    def stepping(trainer: ObjectiveTrainer, *arguments: Any) -> Any:
        for tensor in (*trainer.model.parameters(), *trainer.model.buffers()):
            device.put(tensor)
        device.waits = Counter()
        steps.append(device.waits)
        return begin(trainer, *arguments)

    def looped(trainer: ObjectiveTrainer, *arguments: Any, **more: Any) -> Any:
        with Calls(device), Kernels(device):
            found = train(trainer, *arguments, **more)
            device.waits = Counter()
            return found

    monkeypatch.setattr(ObjectiveTrainer, "get_batch_samples", stepping)
    monkeypatch.setattr(ObjectiveTrainer, "_inner_training_loop", looped)
    settings = {"epochs": 2, "batch_size": 2, "micro_batch_size": 1} | settings
    expunge.unlearn(zoo.tiny_model().float(), zoo.tokenizer(), zoo.corpus(), **settings)
    return steps


def masked() -> dict[str, Any]:
    model = zoo.tiny_model()
    weight = dict(model.named_parameters())["model.layers.1.mlp.up_proj.weight"]
    chosen = torch.zeros(weight.shape, dtype=torch.bool)
    chosen[::3, ::2] = True
    return {"mask": Mask.of(model, {"model.layers.1.mlp.up_proj.weight": chosen})}


SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "npo": lambda: {"method": "npo"},
    "grad_diff": lambda: {"method": "grad_diff"},
    "dpo": lambda: {"method": "dpo"},
    "tnpo": lambda: {"method": "tnpo"},
    "ihl": lambda: {"method": "ihl"},
    "ceu": lambda: {"method": "ceu"},
    "undial": lambda: {"method": "undial"},
    "kl_min, second model": lambda: {"method": "kl_min", "reference": "model"},
    "rmu": lambda: {"method": "rmu"},
    "without clipping": lambda: {"method": "npo", "max_grad_norm": 0.0},
    "LoRA": lambda: {"method": "npo", "adapter": "lora"},
    "mask": lambda: {"method": "npo", **masked()},
}


@pytest.mark.parametrize("what", SETTINGS)
def test_a_step_waits_for_the_device_once(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = waits_of(monkeypatch, **SETTINGS[what]())
    assert len(steps) == 6
    # After the last step the Trainer reads the sum of the losses.
    assert [dict(waits) for waits in steps[:-1]] == [{"tolist": 1}] * 5


def test_a_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = loss._totals

    def waiting(shown: Any, weights: Any) -> Any:
        assert shown.token_logprobs[shown.completion_mask].sum() < 0
        return before(shown, weights)

    monkeypatch.setattr(loss, "_totals", waiting)
    steps = waits_of(monkeypatch, method="npo")
    # Two streams: a list of positions and a truth value for each.
    assert steps[1]["aten.index"] >= 2 and steps[1]["aten._local_scalar_dense"] >= 2
