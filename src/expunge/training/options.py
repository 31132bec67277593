"""Options of training that not every computer and not every run can take: which are refused, and why."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from expunge.core.checks import ExpungeError
from expunge.core.surface import assigned
from expunge.models.anatomy import blocks
from expunge.models.load import place_of
from expunge.training.training_config import TrainingConfig

AMPERE = (8, 0)
COMPILERS = ("g++", "clang++", "c++")


FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}
"""What transformers' classes say of the attention that they have besides eager."""


def check_options(model: PreTrainedModel, config: TrainingConfig, place: str, *, masked: bool) -> None:
    """Raise for options that a run cannot take.

    Args:
        model: the plain model, also where an adapter is on it; one without weights will do.
        config: how it trains.
        place: where the model is, or will be: `cpu`, `cuda`, `cuda:1`.
        masked: does a mask say which weights may change?
    """
    on_cpu = place.startswith("cpu")
    if config.optimizer == "adamw_8bit":
        _check_8bit(on_cpu, masked=masked)
    if config.attention == "flash_attention_2":
        _check_flash(config, on_cpu)
    if config.attention != "auto":
        _check_attention(model, config.attention)
    if config.tf32 and not _has_tf32(place):
        raise ExpungeError(
            f"{assigned(tf32=True)} needs an NVIDIA GPU from Ampere on; this run is on {place}. "
            f"{assigned(precision='bfloat16')} is what is faster on some CPUs."
        )
    if config.compile:
        _check_compile(on_cpu, masked=masked)


def _check_8bit(on_cpu: bool, *, masked: bool) -> None:
    what = assigned(optimizer="adamw_8bit")
    if on_cpu:
        raise ExpungeError(f"{what} needs a GPU: bitsandbytes has no 8-bit optimizer for CPUs. Leave it out.")
    if masked:
        raise ExpungeError(f"{what} does not go with a mask, whose moments are few already. Leave one of them out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ExpungeError(f"{what} needs bitsandbytes, which is not installed: pip install 'expunge[bitsandbytes]'")


def _check_flash(config: TrainingConfig, on_cpu: bool) -> None:
    what = assigned(attention="flash_attention_2")
    if on_cpu:
        raise ExpungeError(f"{what} needs a GPU. Leave it out: sdpa takes the fastest way that a CPU has.")
    if importlib.util.find_spec("flash_attn") is None:
        raise ExpungeError(f"{what} needs flash-attn, which is not installed: pip install 'expunge[flash-attn]'")
    if config.precision == "float32":
        raise ExpungeError(f"{what} computes in 16 bits only, and precision is float32. Leave one of them out.")


def _check_attention(model: PreTrainedModel, attention: str) -> None:
    """Raise where transformers would compute another attention for a model, with a warning at most."""
    now = model.config._attn_implementation
    if attention == now:
        return
    kernels = model._compatible_flash_implementations if attention.startswith("flash") else None
    has_it = attention == "eager" or (getattr(model, FLAGS[attention]) and (kernels is None or attention in kernels))
    if not (has_it and model._can_set_attn_implementation()):
        raise ExpungeError(
            f"{assigned(attention=attention)}: {type(model).__name__} in transformers {transformers.__version__} "
            f"cannot be switched to it from {now}. Leave it out."
        )


def _has_tf32(place: str) -> bool:
    if not (place.startswith("cuda") and torch.cuda.is_available()):
        return False
    return torch.cuda.get_device_capability(place) >= AMPERE


def _check_compile(on_cpu: bool, *, masked: bool) -> None:
    what = assigned(compile=True)
    if masked:
        raise ExpungeError(
            f"{what} does not go with a mask: each layer has another number of selected slices, and would be compiled "
            "by itself. Leave one of them out."
        )
    if on_cpu and not any(map(shutil.which, COMPILERS)):
        raise ExpungeError(f"{what} needs a C++ compiler on a CPU ({', '.join(COMPILERS)}), and none is there.")


def place_now(model: nn.Module) -> str:
    """Where a model is; for one without weights, where models are put."""
    device = next(model.parameters()).device
    return place_of(None) if device.type == "meta" else str(device)


@contextmanager
def options_on(model: PreTrainedModel, config: TrainingConfig) -> Iterator[None]:
    """Attention and compilation as asked for, meanwhile.

    Args:
        model: the plain model, also where an adapter is on it.
        config: checked.

    Raises:
        ExpungeError: transformers did not take the attention.
    """
    before = model.config._attn_implementation
    compiled = list(blocks(model)) if config.compile else []
    try:
        if config.attention != "auto":
            _set_attention(model, config.attention)
        for block in compiled:
            block.compile(dynamic=True)
        yield
    finally:
        for block in compiled:
            block._compiled_call_impl = None
        if config.attention != "auto":
            model.set_attn_implementation(before)


def _set_attention(model: PreTrainedModel, attention: str) -> None:
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError) as error:
        raise ExpungeError(f"{assigned(attention=attention)}: {error} Leave it out.") from error
    found = model.config._attn_implementation
    if found != attention:
        raise ExpungeError(
            f"{assigned(attention=attention)}: {type(model).__name__} is left with {found} instead. Leave it out."
        )
