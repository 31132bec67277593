"""Low-rank adapters on a model, through PEFT: attach, bypass, merge.

An adapted layer computes `y = x W^T + scaling * x (B A)^T`. An adapter that starts at (A0, B0) instead of zero keeps
the start next to the trained factors, `y = x W^T + scaling * x (B A - B0 A0)^T`, as one pair of factors: [A; A - A0]
and [B - B0, B0], whose product is that. The weight W stays as it is stored, in bfloat16 or quantized too: there is no
residual `W - scaling * B0 A0` that would have to be rounded to its type. Before the first step the differences are
zero, so that the model is the start model bit for bit, and so it is with the adapter switched off. Under mixed
precision, too, the pair's output is rounded relative to what training changed, not to B0 A0, as in [A; A0], [B, -B0].
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from expunge.core.checks import ExpungeError, require_at_least, require_between, require_positive
from expunge.models.matrices import linear_layers, shape_of
from expunge.models.vocabulary_head import head_of

Save = Literal["merged", "adapter", "both"]
NAME = "default"


@dataclass(frozen=True)
class Factors:
    """The two factors of a low-rank matrix B A."""

    a: Float[Tensor, "r i"]
    b: Float[Tensor, "o r"]


@dataclass(frozen=True)
class Adapted:
    """What an adapter makes of a model."""

    model: PeftModel
    report: Mapping[str, Any] = field(default_factory=dict)
    """What was found on the way, in a few numbers, for the manifest."""


def attach(
    model: PreTrainedModel,
    matrices: Sequence[str],
    *,
    rank: int,
    lora_alpha: float | None,
    dropout: float = 0.0,
    start: Mapping[str, Factors] | None = None,
    seed: int = 0,
) -> PeftModel:
    """Put factors A and B on some matrices and freeze everything else.

    Args:
        model: changed in place; `merged` or `taken_off` give it back.
        matrices: full names of linear layers.
        rank: of the factors.
        lora_alpha: numerator of the scaling `lora_alpha / rank`; None: 2 * rank.
        dropout: share of the inputs of A that is dropped in training.
        start: factors by matrix to begin with; None: A Kaiming-uniform, B zero.
        seed: of A where nothing is given.

    Raises:
        ExpungeError: settings out of range, or a matrix smaller than the rank.
    """
    scaling = check(model, matrices, rank=rank, lora_alpha=lora_alpha, dropout=dropout)
    layers = linear_layers(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=scaling * rank,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(matrices),
        fan_in_fan_out=any(isinstance(layers[name], Conv1D) for name in matrices),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), without_known_warnings():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    if next(model.parameters()).dtype == torch.float64:
        for parameter in adapted.parameters():
            parameter.data = parameter.data.double() if parameter.requires_grad else parameter.data
    for name, layer in lora_layers(adapted).items():
        if start is not None:
            _begin(layer, start[name.removeprefix("base_model.model.")])
    return adapted


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """PEFT reads a name that transformers has deprecated; whoever trains an adapter can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def check(
    model: nn.Module, matrices: Sequence[str], *, rank: int, lora_alpha: float | None, dropout: float = 0.0
) -> float:
    """The scaling, `lora_alpha / rank`, once all settings were found good."""
    require_at_least("rank", rank, 1)
    require_between("dropout", dropout, 0, 0.99)
    if lora_alpha is not None:
        require_positive("lora_alpha", lora_alpha)
    layers = linear_layers(model)
    name = min(matrices, key=lambda n: min(shape_of(layers[n])))
    if rank > min(shape_of(layers[name])):
        raise ExpungeError(
            f"rank={rank} is more than {name} has ({' x '.join(map(str, shape_of(layers[name])))}): "
            f"use {min(shape_of(layers[name]))} or less."
        )
    return 2.0 if lora_alpha is None else lora_alpha / rank


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


class _BesideStart(nn.Module):
    """What a factor has become since the start, with the other half of `B A - B0 A0 = (B - B0) A + B0 (A - A0)`."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)


class _BesideA(_BesideStart):
    def forward(self, trained: Tensor) -> Tensor:
        """[A; A - A0]."""
        assert isinstance(self.start, Tensor)
        return torch.cat([trained, trained - self.start], 0)


class _BesideB(_BesideStart):
    def forward(self, trained: Tensor) -> Tensor:
        """[B - B0, B0]."""
        assert isinstance(self.start, Tensor)
        return torch.cat([trained - self.start, self.start], 1)


def _begin(layer: LoraLayer, start: Factors) -> None:
    for linear, value, kind in ((layer.lora_A[NAME], start.a, _BesideA), (layer.lora_B[NAME], start.b, _BesideB)):
        assert isinstance(linear, nn.Linear)
        weight = linear.weight
        weight.data.copy_(value)
        beside = kind(weight.detach().clone())
        parametrize.register_parametrization(linear, "weight", beside, unsafe=True)


def keeps_start(model: nn.Module) -> bool:
    """Did the adapter begin at factors that are subtracted next to it?"""
    return any(isinstance(module, _BesideStart) for module in model.modules())


def halves(layer: LoraLayer, name: str = NAME) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """(A, B, A0, B0) of a layer; the latter two are None where it began at zero."""
    found: list[Tensor | None] = []
    for linear in (layer.lora_A[name], layer.lora_B[name]):
        if parametrize.is_parametrized(linear):
            stack = linear.parametrizations.weight  # type: ignore[union-attr]
            found += [stack.original, stack[0].start]  # type: ignore[union-attr, index]
        else:
            found += [linear.weight, None]  # type: ignore[list-item]
    a, a0, b, b0 = found
    assert a is not None and b is not None
    return a, b, a0, b0


def is_quantized(model: nn.Module) -> bool:
    """Are weights kept in 8 or 4 bits?"""
    return bool(getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None))


def merged(model: PeftModel) -> PreTrainedModel:
    """The plain model with the adapter added to its weights; no adapter is left.

    The product of the factors is float32 as they are, and PEFT adds it in place: the sum is computed in float32 and
    rounded once to the type of the weights, whatever that is.
    """
    with torch.no_grad():
        plain = model.merge_and_unload()
    vars(plain).pop("peft_config", None)
    assert isinstance(plain, PreTrainedModel)
    return plain


def taken_off(model: PeftModel) -> PreTrainedModel:
    """The plain model without the adapter: the start model."""
    plain = model.unload()
    vars(plain).pop("peft_config", None)
    assert isinstance(plain, PreTrainedModel)
    return plain


class StartModel(nn.Module):
    """The start model seen through the one in training, so that no second model is held.

    It is the model with its adapter switched off, or with the values that its trained parameters had, where it was
    handed in with an adapter of its own.
    """

    def __init__(self, model: PeftModel, *, own_adapter: bool = False) -> None:
        """Look behind an adapter.

        Args:
            model: in training.
            own_adapter: the start model carries this adapter itself; its values are copied now.
        """
        super().__init__()
        self.module = model
        self.head = head_of(model).frozen()
        self.kept = (
            {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad} if own_adapter else None
        )

    def forward(self, **inputs: Any) -> Any:
        """What the start model shows."""
        training = self.module.training
        self.module.eval()
        try:
            with self.module.disable_adapter() if self.kept is None else self._as_before(self.kept):
                return self.module(**inputs)
        finally:
            self.module.train(training)

    @contextmanager
    def _as_before(self, kept: Mapping[str, Tensor]) -> Iterator[None]:
        # Assigning `data` leaves what autograd has saved of the parameters as it is.
        now = {name: p for name, p in self.module.named_parameters() if name in kept}
        values = {name: p.data for name, p in now.items()}
        try:
            for name, parameter in now.items():
                parameter.data = kept[name]
            yield
        finally:
            for name, parameter in now.items():
                parameter.data = values[name]


def check_peft(model: PeftModel) -> None:
    """Raise unless a PEFT model that was handed in is one that can be trained further: one trainable LoRA."""
    configs = list(model.peft_config.values())
    if len(configs) != 1 or not isinstance(configs[0], LoraConfig):
        kinds = ", ".join(str(getattr(c.peft_type, "value", c.peft_type)) for c in configs)
        raise ExpungeError(
            f"the model carries {len(configs)} PEFT adapters ({kinds}); one LoRA adapter can be trained further. Merge "
            "the others first: model.merge_and_unload()."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ExpungeError(
            "the model's adapter is frozen. Load it with PeftModel.from_pretrained(..., is_trainable=True)."
        )
