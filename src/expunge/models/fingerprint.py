"""Fingerprints of models and tokenizers: the same content gives the same text, in whatever folder it is stored."""

import json
from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase

from expunge.models.placement import is_spread, kept_weight


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece: gathered from all processes where it is sharded (FSDP2), which all must ask for."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def model_fingerprint(model: nn.Module) -> str:
    """Fingerprint of a model's weights: names, types, shapes and bits; the same wherever the files are."""
    weights = {name: kept_weight(model, name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    # What is offloaded is read anew each time, so that names alone say which weights are one.
    tied = getattr(model, "all_tied_weights_keys", {}) if is_spread(model) else None
    return _fingerprint(_deciding(model), weights, tied)


def base_fingerprint(model: nn.Module) -> str:
    """`model_fingerprint` of the model that the adapter is attached to; of a plain model its own.

    Args:
        model: a PEFT model, with whatever values in its adapter.
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    weights = {}
    for name, tensor in plain.state_dict(keep_vars=True).items():
        parts = name.split(".")
        if not any(part.startswith("lora_") or part == "modules_to_save" for part in parts):
            weights[".".join(part for part in parts if part not in _PEFT_WRAPPERS)] = tensor
    return _fingerprint({k: v for k, v in _deciding(plain).items() if k != _ADAPTERS}, weights)


_PEFT_WRAPPERS = ("base_layer", "original_module")
"""Names under which PEFT keeps the layers that it stands before."""


def _fingerprint(
    deciding: Mapping[str, Any], weights: Mapping[str, Tensor], tied: Mapping[str, str] | None = None
) -> str:
    digest = xxhash.xxh3_128()
    digest.update(json.dumps(deciding, sort_keys=True, default=_plain).encode())
    seen: set[int | str] = set()
    for name, tensor in sorted(weights.items()):
        mark = id(tensor) if tied is None else tied.get(name, name)
        if mark in seen:
            continue  # a tied weight counts once
        seen.add(mark)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(whole(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"xxh3:{digest.hexdigest()}"


def _plain(value: Any) -> Any:
    # The text of a set has another order in each process.
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


_NOT_DECIDING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache")
_NOT_DECIDING_OF_ADAPTERS = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")
_ADAPTERS = "adapters"


def _deciding(model: nn.Module) -> dict[str, Any]:
    """What of the configuration decides outputs besides the weights: positions, norms, caps, windows, adapters."""
    config = getattr(model, "config", None)
    found = {k: v for k, v in config.to_dict().items() if k not in _NOT_DECIDING} if config is not None else {}
    adapters = getattr(model, "peft_config", None)
    if not adapters:
        return found
    told = {
        name: {k: v for k, v in how.to_dict().items() if k not in _NOT_DECIDING_OF_ADAPTERS}
        for name, how in adapters.items()
    }
    return found | {_ADAPTERS: told}


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of what decides ids: vocabulary, rules, special tokens, chat template."""
    digest = xxhash.xxh3_128()
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = _rules(backend.to_str()) if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    for part in (rules, json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)):
        digest.update(part.encode())
    digest.update(str(getattr(tokenizer, "chat_template", None)).encode())
    return f"xxh3:{digest.hexdigest()}"


def _rules(backend: str) -> str:
    # Padding and truncation are how it was last called, not what it is.
    return json.dumps(
        {k: v for k, v in json.loads(backend).items() if k not in ("padding", "truncation")}, sort_keys=True
    )
