"""Load and save models and tokenizers; safetensors only, no remote code unless asked for."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed import DistributedConfig
from transformers.utils import logging as transformers_logging

from expunge.core.checkpoints import checkpoints
from expunge.core.checks import ExpungeError, folders_with, near_folder, require_bits, require_type
from expunge.core.distributed import is_main, join, sharded
from expunge.core.json_text import read_object
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest
from expunge.core.progress import local_rank, processes
from expunge.core.surface import flag
from expunge.core.tensor_file import give_usual_mode
from expunge.models.adapter_files import about_adapter, load_adapter
from expunge.models.lowrank import is_quantized, merged
from expunge.models.rows_fit import embedded_ids
from expunge.models.weight_files import cached, headers, weight_files
from expunge.models.weights_fit import check_causal, check_weights

Dtype = str | torch.dtype
_CONFIGURATIONS = ("config.json", "adapter_config.json")
"""A folder with one of these is a model's."""
SPREAD = "auto"
"""The device that stands for all."""


def load_model(
    source: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str | None = None,
    bits: int | None = None,
    sharded: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel | PeftModel:
    """Load a causal language model from a local folder (a run folder too) or from the hub.

    A folder that holds an adapter alone gives the model that the adapter names as its base, with the adapter merged in;
    over a base whose weights are quantized, where merging would round it away, a PEFT model.

    Args:
        source: folder or hub id.
        dtype: `auto` (as stored), `float32`, `bfloat16`, ...
        device: where to put it; `auto`: over all GPUs, and what does not fit there in the memory of the CPU, for
            evaluation and localization; None: the first GPU if there is one, else the CPU.
        bits: 8 or 4 keep the weights quantized, through bitsandbytes; None: as they are, or as an adapter's base was.
        sharded: divide the weights among the processes that a launcher started (FSDP2).
        trust_remote_code: run code that comes with the model; off unless you trust its author.

    Raises:
        ExpungeError: a folder without configuration or without safetensors weights, weights that do not fit the
            configuration, a model that is no causal language model, an id that is not available, an adapter whose base
            is missing or another model, bits that the base of an adapter did not have, bits without bitsandbytes or a
            GPU, a device that is not there, or weights that cannot be sharded.
    """
    require_type("trust_remote_code", trust_remote_code, bool, "True or False")
    check_loading(source, device=device, bits=bits, sharded=sharded)
    place = place_of(device)
    if holds_adapter_alone(source):
        return _with_adapter(Path(source), dtype=dtype, place=place, trust_remote_code=trust_remote_code)
    config = configuration(source, trust_remote_code=trust_remote_code)
    where: dict[str, Any] = {"device_map": SPREAD} if place == SPREAD else {}
    if bits is not None:
        where = {"quantization_config": _quantization(bits), "device_map": SPREAD if where else {"": place}}
    if sharded:
        join()
        where = {"distributed_config": DistributedConfig(fsdp_size=processes())}
    with refused(f"cannot load the model '{source}'", source), quiet():
        model, found = AutoModelForCausalLM.from_pretrained(
            str(source),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported with the others; `check_weights` refuses them
            **where,
        )
        check_weights(source, type(model).__name__, found)
        return (model if where else model.to(place)).eval()  # type: ignore[no-any-return]


def configuration(source: str | Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of a causal language model.

    Raises:
        ExpungeError: there is none, it is damaged, or it is of another kind of model.
    """
    with refused(f"cannot read the configuration of the model '{source}'", source):
        check_model_folder(source)
        config: PretrainedConfig = AutoConfig.from_pretrained(str(source), trust_remote_code=trust_remote_code)
        check_causal(source, config)
    return config


@contextmanager
def refused(what: str, source: str | Path) -> Iterator[None]:
    """What a model's files make transformers raise, as one of our errors.

    Args:
        what: could not be done, for the message.
        source: folder or hub id.
    """
    try:
        yield
    except ExpungeError:
        raise
    except Exception as error:  # a configuration of wrong values raises anything: TypeError, ZeroDivisionError, ...
        raise ExpungeError(f"{what}: {_why(source, error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bar and its report of weights that do not fit, which become an error."""
    before = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def check_loading(
    source: str | Path, *, device: str | None = None, bits: int | None = None, sharded: bool = False
) -> None:
    """Raise where `load_model` would refuse, as far as files and settings show, before any weight is read.

    Args:
        source: folder or hub id.
        device: where the model would be put.
        bits: what its weights would be kept in.
        sharded: would they be divided among processes?
    """
    require_bits(bits)
    check_model_folder(source)
    if sharded:
        _check_sharding(source, device=device, bits=bits)
    if processes() > 1 and device is not None and (device == SPREAD or ":" in device):
        raise ExpungeError(
            f"device={device} with {processes()} processes: each takes a GPU of its own. Leave device out, or start "
            "one process."
        )
    if not holds_adapter_alone(source):
        _check_quantizing(bits, place_of(device))
        check_device(device)
        headers(weight_files(source))  # all there, and whole
        return
    trained_on = bits_under(source)
    if bits is not None and bits != trained_on:
        how = "weights as they are stored" if trained_on is None else f"weights in {trained_on} bits"
        raise ExpungeError(
            f"bits={bits}: the adapter in {source} was trained on {how}, and on others it is a different change. Leave "
            "bits out. To put it on them all the same: expunge.load_adapter(model, folder, force=True)."
        )
    check_loading(adapter_base(source), device=device, bits=trained_on)


def check_device(device: str | None) -> None:
    """Raise unless models can be put on a device; None is the one that is taken by itself."""
    if device in (None, SPREAD):
        return
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError):
        raise ExpungeError(f"device must be such as cpu, cuda or cuda:1; got {device!r}.") from None
    if asked.type == "cpu":
        return
    kind = torch.get_device_module(asked.type) if asked.type != "meta" else None
    count = kind.device_count() if kind is not None and kind.is_available() else 0
    if (asked.index or 0) >= count:
        there = ["cpu", *(f"{asked.type}:{i}" for i in range(count))]
        raise ExpungeError(f"device must be one of this computer; got {device!r}. Available: {', '.join(there)}.")


def place_of(device: str | None) -> str:
    """Where a model is put: the device that was named, else this process's GPU if there is one, else the CPU."""
    if device is not None or not torch.cuda.is_available():
        return device or "cpu"
    return "cuda" if processes() == 1 else f"cuda:{local_rank() % torch.cuda.device_count()}"


def _check_sharding(source: str | Path, *, device: str | None, bits: int | None) -> None:
    if processes() == 1:
        raise ExpungeError(
            "sharded=true divides the weights among several processes, and this is one. Start several: --launch fsdp2 "
            "--gpus 2, or torchrun -m expunge ..."
        )
    for setting, value in (("device", device), ("bits", bits)):
        if value is not None:
            raise ExpungeError(f"{setting}={value} does not go with sharded=true. Leave one of them out.")
    if holds_adapter_alone(source):
        raise ExpungeError(
            f"'{source}' holds an adapter alone, which is merged into whole weights, so sharded=true does not go with "
            "it. Merge it into a model folder first: expunge export."
        )


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
    """The start model that an adapter on disk names: folder or hub id, or the folder of another adapter.

    Raises:
        ExpungeError: it names none, or the adapters name each other in a circle.
    """
    base = _named_base(folder)
    seen, at = {Path(folder).resolve()}, base
    while holds_adapter_alone(at):
        if Path(at).resolve() in seen:
            raise ExpungeError(
                f"the adapter in {folder} stands on no start model: base_model_name_or_path in its adapter_config.json "
                f"leads back to {at}. Write the folder or hub id of its start model there."
            )
        seen.add(Path(at).resolve())
        at = _named_base(at)
    return base


def _named_base(folder: str | Path) -> str:
    base = read_object(Path(folder) / "adapter_config.json").get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ExpungeError(
            f"the adapter in {folder} does not name its start model. Load that yourself, then "
            "expunge.load_adapter(model, folder)."
        )
    return base


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
    require_type("trust_remote_code", trust_remote_code, bool, "True or False")
    if not isinstance(source, str | Path):
        raise ExpungeError(f"a tokenizer is loaded from a folder or a hub id; got {type(source).__name__}.")
    if not Path(source).exists():
        _check_elsewhere(source)
    if holds_adapter_alone(source) and not any(Path(source).glob("tokenizer*")):
        return load_tokenizer(adapter_base(source), trust_remote_code=trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=trust_remote_code)
    except Exception as error:  # the files of a tokenizer make the libraries raise anything, `Exception` itself too
        elsewhere = "\nIf it is elsewhere, name it: tokenizer=<folder or id>." if Path(source).exists() else ""
        raise ExpungeError(f"cannot load a tokenizer from '{source}': {_why(source, error)}{elsewhere}") from error
    return cast(PreTrainedTokenizerBase, tokenizer)


def _why(source: str | Path, error: Exception) -> str:
    text = str(error).strip() or "no reason given"
    if Path(source).exists():
        return text if isinstance(error, OSError | ValueError) else f"{text} ({type(error).__name__})"
    # What comes from far away speaks of connections first, where mostly a name is wrong.
    near = near_folder(Path(source), *_CONFIGURATIONS)
    return f"no folder of that name is here, and the hub gave nothing ({text.splitlines()[0]}){near}"


_NEAR = 0.8
"""How alike a name without a folder must be to one that is here, to be taken for a slip and not for a hub id."""


def _check_elsewhere(source: str | Path) -> None:
    """Raise where a name that is no folder here can be none on the hub, or is rather meant to be here.

    The hub is not asked, which takes a minute where it cannot be reached.
    """
    missing = Path(source)
    first = f"no model folder at '{source}'.{near_folder(missing, *_CONFIGURATIONS)}"
    try:
        validate_repo_id(str(source))
    except HFValidationError:
        raise ExpungeError(first) from None
    if any(cached(missing, name) for name in _CONFIGURATIONS):
        return
    # A folder may have the name of an organization on the hub, such as a clone of its code; one of models is meant.
    here = bool(folders_with(missing.parent, *_CONFIGURATIONS)) if len(missing.parts) > 1 else _is_slip(missing.name)
    if here:
        raise ExpungeError(f"{first} If it is a model on the hub, get it first: hf download {missing}")


def _is_slip(name: str) -> bool:
    """Is it nearly the name of a model folder here? A name with something added is not: `gpt2` and `gpt2-mine`."""
    near = get_close_matches(name, folders_with(Path(), *_CONFIGURATIONS), n=1, cutoff=_NEAR)
    return bool(near) and name not in near[0] and near[0] not in name


def check_model_folder(source: str | Path) -> None:
    """Raise unless `source` is a hub id or a folder with a configuration and safetensors weights."""
    if not isinstance(source, str | Path):
        raise ExpungeError(f"a model is loaded from a folder or a hub id; got {type(source).__name__}.")
    folder = Path(source)
    if not folder.exists():
        _check_elsewhere(source)
        return
    if not folder.is_dir():
        raise ExpungeError(f"'{source}' is a file; a model is a folder with config.json and model.safetensors.")
    for name in _CONFIGURATIONS:
        if (folder / name).is_file():
            read_object(folder / name)  # what is wrong with its JSON, which the libraries do not say
    files = sorted(p.name for p in folder.iterdir())
    if not {*_CONFIGURATIONS} & set(files):
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
    except ExpungeError:
        return  # others call their files manifest.json, too
    if made.stage not in ("train", "unlearn") or made.results.get("finished"):
        return
    latest = checkpoints(folder)[-1:]
    beside = f", or take its latest checkpoint as the model, {latest[0]}" if latest else "; no checkpoint is there yet"
    raise ExpungeError(
        f"'{folder}' is an unfinished run, which holds no model. Go on with it by the same command with "
        f"{flag('resume')}{beside}."
    )


def check_loaded(model: object, tokenizer: object) -> None:
    """Raise unless it is a loaded model and a loaded tokenizer, and not a name of one."""
    check_model(model)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ExpungeError(
            f"tokenizer must be a loaded tokenizer; got {_described(tokenizer)}. Load it first: "
            "expunge.load_tokenizer(<folder or id>)."
        )


def check_model(model: object, what: str = "model") -> None:
    """Raise unless it is a loaded model, and not a name of one."""
    if not isinstance(model, nn.Module):
        raise ExpungeError(
            f"{what} must be a loaded model; got {_described(model)}. Load it first: "
            "expunge.load_model(<folder or id>)."
        )


def _described(value: object) -> str:
    return repr(value) if value is None or isinstance(value, str | Path) else type(value).__name__


def check_tokenizer_fits(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise where the tokenizer has ids that the model has no embedding for, or one of the two is not loaded.

    Special tokens may have such ids, as that of images in a text model; `check_rows_fit` refuses rows that hold one.
    """
    check_loaded(model, tokenizer)
    rows = embedded_ids(model)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest + 1 < 0.9 * rows - 256:
        warnings.warn(
            f"the tokenizer writes ids up to {largest}, the model embeds {rows}: are they of one family? "
            "A tokenizer of another model gives rows that this one cannot know.",
            stacklevel=2,
        )
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    own = max((number for number in tokenizer.get_vocab().values() if number not in special), default=-1)
    if own >= rows:
        raise ExpungeError(
            f"tokenizer and model do not fit: the tokenizer writes ids up to {own}, the model embeds {rows} "
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
    """Write weights (safetensors), configuration and tokenizer, as transformers reads them.

    Of a model whose weights are divided among processes, all must ask for it; the first one writes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if is_main() or not sharded(model):
        give_usual_mode(*folder.glob("*.safetensors"))
        tokenizer.save_pretrained(folder)
    return folder


def read_weights_into(model: PreTrainedModel, folder: str | Path) -> None:
    """Take the weights of a model whose weights are divided among processes from a folder; each reads its part.

    Args:
        model: changed in place; its parameters stay the same objects.
        folder: what `save_model` wrote of this architecture.

    Raises:
        ExpungeError: the weights do not fit the model.
    """
    plain = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    with quiet():
        stored, found = plain.from_pretrained(  # type: ignore[attr-defined]
            str(folder),
            config=deepcopy(model.config),
            dtype=max((p.dtype for p in model.parameters()), key=lambda dtype: dtype.itemsize),  # all fit into it
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported with the others; `check_weights` refuses them
            distributed_config=model.config.distributed_config,
        )
    check_weights(folder, plain.__name__, found)
    model.load_state_dict(stored.state_dict())


def reshard(model: nn.Module) -> None:
    """Let a model's parameters be its shards again, where it is sharded.

    After a forward pass without a backward one, FSDP2 leaves the outermost parameters whole: what is then switched on
    or off, or masked, are passing copies and not the parameters that are trained.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
