"""Load and save models and tokenizers; safetensors only, no remote code unless asked for."""

import importlib.util
import json
import warnings
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from expunge.core.checkpoints import checkpoints
from expunge.core.checks import ExpungeError, require_bits
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest
from expunge.core.surface import flag
from expunge.core.tensor_file import give_usual_mode
from expunge.models.adapter_files import about_adapter, load_adapter
from expunge.models.lowrank import is_quantized, merged

Dtype = str | torch.dtype


def load_model(
    source: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str | None = None,
    bits: int | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel | PeftModel:
    """Load a causal language model from a local folder (a run folder too) or from the hub.

    A folder that holds an adapter alone gives the model that the adapter names as its base, with the adapter merged in;
    over a base whose weights are quantized, where merging would round it away, a PEFT model.

    Args:
        source: folder or hub id.
        dtype: `auto` (as stored), `float32`, `bfloat16`, ...
        device: where to put it; None: the first GPU if there is one, else the CPU.
        bits: 8 or 4 keep the weights quantized, through bitsandbytes; None: as they are, or as an adapter's base was.
        trust_remote_code: run code that comes with the model; off unless you trust its author.

    Raises:
        ExpungeError: a folder without configuration or without safetensors weights, an id that is not available, an
            adapter whose base is missing or another model, bits that the base of an adapter did not have, or bits
            without bitsandbytes or a GPU.
    """
    check_loading(source, device=device, bits=bits)
    transformers_logging.disable_progress_bar()
    place = _place(device)
    if holds_adapter_alone(source):
        return _with_adapter(Path(source), dtype=dtype, place=place, trust_remote_code=trust_remote_code)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            **({} if bits is None else {"quantization_config": _quantization(bits), "device_map": {"": place}}),
        )
    except (OSError, ValueError) as error:
        raise ExpungeError(f"cannot load the model '{source}': {_why(source, error)}") from error
    return (model if bits is not None else model.to(place)).eval()


def check_loading(source: str | Path, *, device: str | None = None, bits: int | None = None) -> None:
    """Raise where `load_model` would refuse, as far as files and settings show, before any weight is read.

    Args:
        source: folder or hub id.
        device: where the model would be put.
        bits: what its weights would be kept in.
    """
    require_bits(bits)
    check_model_folder(source)
    if not holds_adapter_alone(source):
        _check_quantizing(bits, _place(device))
        return
    trained_on = bits_under(source)
    if bits is not None and bits != trained_on:
        how = "weights as they are stored" if trained_on is None else f"weights in {trained_on} bits"
        raise ExpungeError(
            f"bits={bits}: the adapter in {source} was trained on {how}, and on others it is a different change. Leave "
            "bits out. To put it on them all the same: expunge.load_adapter(model, folder, force=True)."
        )
    check_loading(adapter_base(source), device=device, bits=trained_on)


def _place(device: str | None) -> str:
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _check_quantizing(bits: int | None, place: str) -> None:
    if bits is None:
        return
    if place == "cpu":
        raise ExpungeError(
            f"bits={bits} needs a GPU: on CPUs bitsandbytes computes with kernels for inference, through which "
            "gradients are missing or wrong. Leave bits out, or use dtype=bfloat16 for half the memory."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ExpungeError(f"bits={bits} needs bitsandbytes, which is not installed: pip install bitsandbytes")


def _quantization(bits: int) -> BitsAndBytesConfig:
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def bits_of(model: nn.Module) -> int | None:
    """The bits that bitsandbytes keeps a model's weights in; None where it does not."""
    how = getattr(getattr(model, "config", None), "quantization_config", None)
    return (8 if how.load_in_8bit else 4) if isinstance(how, BitsAndBytesConfig) else None


def holds_adapter_alone(source: str | Path) -> bool:
    """Is it a folder with an adapter and no model?"""
    folder = Path(source)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def adapter_base(folder: str | Path) -> str:
    """The start model that an adapter on disk names: folder or hub id.

    Raises:
        ExpungeError: it names none.
    """
    told = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    base = told.get("base_model_name_or_path")
    if not base:
        raise ExpungeError(
            f"the adapter in {folder} does not name its start model. Load that yourself, then "
            "expunge.load_adapter(model, folder)."
        )
    return str(base)


def bits_under(source: str | Path) -> int | None:
    """The bits that the base of an adapter folder is kept in; None for any other source."""
    return about_adapter(source).get("bits") if holds_adapter_alone(source) else None


def _with_adapter(folder: Path, *, dtype: Dtype, place: str, trust_remote_code: bool) -> PreTrainedModel | PeftModel:
    about = about_adapter(folder)
    start = load_model(
        adapter_base(folder),
        dtype=about.get("dtype", "auto"),
        device=place,
        bits=about.get("bits"),
        trust_remote_code=trust_remote_code,
    )
    assert isinstance(start, PreTrainedModel)
    adapted = load_adapter(start, folder)
    if is_quantized(start):
        if dtype != "auto":
            raise ExpungeError(
                f"dtype={dtype}: over quantized weights an adapter computes as it was trained; leave it."
            )
        return adapted.eval()
    model = merged(adapted)
    # These weights are in no other place: whoever names the model, manifests and PEFT, must name this folder.
    model.config._name_or_path = model.name_or_path = str(folder)
    return (model if dtype == "auto" else model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)).eval()


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer that is with a model; of an adapter folder without one, that of its start model.

    Raises:
        ExpungeError: there is none; the message says which option names another place.
    """
    if holds_adapter_alone(source) and not any(Path(source).glob("tokenizer*")):
        return load_tokenizer(adapter_base(source), trust_remote_code=trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ExpungeError(
            f"cannot load a tokenizer from '{source}': {_why(source, error)}\n"
            "If it is elsewhere, name it: tokenizer=<folder or id>."
        ) from error
    return cast(PreTrainedTokenizerBase, tokenizer)


def _why(source: str | Path, error: Exception) -> str:
    if Path(source).exists():
        return str(error)
    # What comes from far away speaks of connections first, where mostly a name is wrong.
    return f"no folder of that name is here, and the hub gave nothing ({str(error).splitlines()[0]})"


def check_model_folder(source: str | Path) -> None:
    """Raise unless `source` is a hub id or a folder with a configuration and safetensors weights."""
    folder = Path(source)
    if not folder.exists():
        looks_local = str(source).startswith((".", "/", "~")) or str(source).count("/") > 1
        if looks_local:
            raise ExpungeError(f"no model folder at '{source}'.")
        return
    if not folder.is_dir():
        raise ExpungeError(f"'{source}' is a file; a model is a folder with config.json and model.safetensors.")
    files = sorted(p.name for p in folder.iterdir())
    if not {"config.json", "adapter_config.json"} & set(files):
        _refuse_unfinished(folder)
        raise ExpungeError(
            f"'{source}' holds no config.json, so it is not a model folder. It holds: {', '.join(files) or 'nothing'}."
        )
    if not any(name.endswith((".safetensors", ".safetensors.index.json")) for name in files):
        pickled = [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
        why = (
            f"It holds {', '.join(pickled)}, and pickled weights can run code when loaded, so they never are. "
            "Convert them to safetensors first."
            if pickled
            else f"It holds: {', '.join(files)}."
        )
        raise ExpungeError(f"'{source}' has no weights: no *.safetensors file. {why}")


def _refuse_unfinished(folder: Path) -> None:
    """Raise where a folder is a run of ours that has not come to its end."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        made = Manifest.load(folder)
    except (TypeError, ValueError):
        return  # others call their files manifest.json, too
    if made.stage not in ("train", "unlearn") or made.results.get("finished"):
        return
    latest = checkpoints(folder)[-1:]
    beside = f", or take its latest checkpoint as the model, {latest[0]}" if latest else "; no checkpoint is there yet"
    raise ExpungeError(
        f"'{folder}' is an unfinished run, which holds no model. Go on with it by the same command with "
        f"{flag('resume')}{beside}."
    )


def check_tokenizer_fits(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise where the tokenizer can write ids that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest + 1 < 0.9 * rows - 256:
        warnings.warn(
            f"the tokenizer writes ids up to {largest}, the model embeds {rows}: are they of one family? "
            "A tokenizer of another model gives rows that this one cannot know.",
            stacklevel=2,
        )
    if largest >= rows:
        raise ExpungeError(
            f"tokenizer and model do not fit: the tokenizer writes ids up to {largest}, the model embeds {rows} "
            f"(0 to {rows - 1}). Load the tokenizer that the model was trained with: tokenizer=<folder or id>."
        )


def refuse_adapters(model: nn.Module) -> None:
    """Raise for a model that carries adapters, where a plain one is needed: its weights are not what it computes."""
    if getattr(model, "peft_config", None):
        raise ExpungeError(
            "the model carries PEFT adapters, and fine-tuning, localizing and mixing work on the weights of a plain "
            "model. Merge them first: model.merge_and_unload(). unlearn alone trains an adapter that a "
            "model came with."
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Write weights (safetensors), configuration and tokenizer, as transformers reads them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    give_usual_mode(*folder.glob("*.safetensors"))
    tokenizer.save_pretrained(folder)
    return folder


def reshard(model: nn.Module) -> None:
    """Let a model's parameters be its shards again, where it is sharded.

    After a forward pass without a backward one, FSDP2 leaves the outermost parameters whole: what is then switched on
    or off, or masked, are passing copies and not the parameters that are trained.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
