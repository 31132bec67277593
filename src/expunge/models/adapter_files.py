"""Adapters on disk: PEFT's own files, so that PEFT alone can load them on the start model, and what made them.

An adapter that began at (A0, B0) is written as the plain LoRA of twice the rank that it equals on the start model's
own weights: `B A - B0 A0 = [B, -B0] [A; A0]`. Training goes through the pair in another form (models/lowrank.py); this
one holds all four factors as they are, so that runs resume to the same bits.
"""

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from expunge.core.checks import ExpungeError
from expunge.core.json_text import read_object
from expunge.core.tensor_file import save_tensors
from expunge.core.whole import write_whole
from expunge.models.fingerprint import model_fingerprint
from expunge.models.lowrank import halves, keeps_start, lora_layers, without_known_warnings
from expunge.models.weights_fit import check_adapter

CONFIG, WEIGHTS, ABOUT = "adapter_config.json", "adapter_model.safetensors", "adapter.json"


def write_adapter(model: PeftModel, folder: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write the adapter of a model as PEFT reads it.

    Args:
        model: carries one adapter.
        folder: made where it is missing.
        about: its kind, its settings, `base`, the fingerprint of the plain model it belongs on, and that one's `dtype`
            and `bits`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = model.active_adapter
    assert isinstance(name, str)
    config = copy.copy(model.peft_config[name])
    assert isinstance(config, LoraConfig)
    if keeps_start(model):
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
        state = {}
        for layer_name, layer in lora_layers(model).items():
            a, b, a0, b0 = halves(layer, name)
            assert a0 is not None and b0 is not None
            state[f"{layer_name}.lora_A.weight"] = torch.cat([a, a0], 0)
            state[f"{layer_name}.lora_B.weight"] = torch.cat([b, -b0], 1)
    else:
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    config.inference_mode = True
    base = config.base_model_name_or_path
    if base and Path(base).is_dir():
        config.base_model_name_or_path = str(Path(base).resolve())
    save_tensors({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / WEIGHTS, {"format": "pt"})
    config.save_pretrained(str(folder))
    if about is not None:
        write_whole(folder / ABOUT, json.dumps(dict(about), indent=2) + "\n")
    return folder


def read_adapter_into(model: PeftModel, folder: str | Path) -> None:
    """Put the values that `write_adapter` wrote back into the adapter that wrote them."""
    state = load_file(Path(folder) / WEIGHTS)
    name = model.active_adapter
    assert isinstance(name, str)
    if not keeps_start(model):
        set_peft_model_state_dict(model, state, adapter_name=name)
        return
    with torch.no_grad():
        for layer_name, layer in lora_layers(model).items():
            a, b, a0, b0 = halves(layer, name)
            assert a0 is not None and b0 is not None
            both = state[f"{layer_name}.lora_A.weight"].chunk(2, 0) + state[f"{layer_name}.lora_B.weight"].chunk(2, 1)
            for factor, value in zip((a, a0, b, b0), (*both[:3], -both[3]), strict=True):
                factor.copy_(value)


def load_adapter(base: PreTrainedModel, folder: str | Path, *, force: bool = False) -> PeftModel:
    """Put a stored adapter on the model it was trained on.

    Args:
        base: the start model.
        folder: what `unlearn(..., save="adapter")` wrote, or any PEFT adapter.
        force: load it on other weights too.

    Raises:
        ExpungeError: no adapter there, one that is damaged, or the base is not the model that it was trained on.
    """
    if not isinstance(base, PreTrainedModel):
        raise ExpungeError(
            f"load_adapter takes the loaded start model; got {base!r}. Hand over expunge.load_model(<its folder>), or "
            f"let expunge.load_model('{folder}') find and merge it."
        )
    folder = Path(folder)
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise ExpungeError(f"{folder} is not an adapter: it lacks {' and '.join(missing)}.")
    about = about_adapter(folder)
    if about.get("base") and not force:
        now = model_fingerprint(base)
        if now != about["base"]:
            raise ExpungeError(
                f"the adapter in {folder} was trained on another model ({about['base']}, this one is {now}), and on "
                "other weights it is a different change. Load its own start model, or say force=True."
            )
    read_object(folder / CONFIG)
    of_model = set(base.state_dict())
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
        with without_known_warnings(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error, two lines below
            adapted = PeftModel.from_pretrained(base, str(folder))
    except SafetensorError as error:
        raise ExpungeError(f"{folder / WEIGHTS} is damaged: it is no whole safetensors file ({error}).") from error
    except Exception as error:  # a configuration of wrong values makes PEFT raise anything
        why = " ".join(str(error).split("\n\t")[:2])  # of what may be a line for each weight
        raise ExpungeError(f"the adapter in {folder} does not fit the model: {why} ({type(error).__name__})") from error
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_adapter(folder, stored, expected, (f"base_model.model.{name}" for name in of_model))
    return adapted


def about_adapter(folder: str | Path) -> dict[str, Any]:
    """What made a stored adapter; empty for adapters from elsewhere."""
    path = Path(folder) / ABOUT
    return read_object(path) if path.is_file() else {}
