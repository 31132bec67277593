"""Writing GGUF: the weights of a model, its settings and its tokenizer in one file, as llama.cpp reads it."""

import importlib.util
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError, unknown
from expunge.core.progress import Progress
from expunge.release.gguf_architectures import Architecture, architecture_of, rope_factors
from expunge.release.gguf_vocabulary import vocabulary

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

Kind = Literal["f32", "f16", "bf16", "q8_0"]
FILE_TYPES: Mapping[str, str] = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""By type of the matrices, what GGUF calls such a file."""
STORED: Mapping[str, Kind] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""The type that keeps every weight as it is stored."""
ROPE_FACTORS = "rope_freqs.weight"
_WHOLE = ("position_embd.weight",)
"""Matrices that stay in 32 bits: readers take them in no other type."""
_NAMES = (".weight", ".bias")


def check_gguf(kind: str) -> None:
    """Raise unless files of this type can be written here."""
    if kind not in FILE_TYPES:
        raise unknown("type of GGUF weights", kind, FILE_TYPES)
    if importlib.util.find_spec("gguf") is None:
        raise ExpungeError("form=gguf needs the package gguf: pip install 'expunge[gguf]'")


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    aside: Path,
    *,
    kind: Kind,
    name: str,
    progress: Progress | None = None,
) -> None:
    """Write a model as GGUF. Vectors stay in 32 bits; rows that q8_0's blocks do not divide are written as f16.

    Args:
        model: a plain model of a known architecture.
        tokenizer: its tokenizer.
        aside: the file.
        kind: type of the matrices.
        name: of the model, which the file carries.
        progress: called with how far it is.

    Raises:
        ExpungeError: an architecture or a tokenizer that cannot be written, or a weight that has no place in the file.
    """
    from gguf import GGML_QUANT_SIZES, LlamaFileType

    check_gguf(kind)
    made = architecture_of(model.config)
    weights = _weights(model, made)
    types = {target: _type(target, _shape(made, model.config, *weights[target]), kind) for target in weights}
    writer = _described(model.config, tokenizer, aside)
    writer.add_name(name)
    writer.add_file_type(int(LlamaFileType[FILE_TYPES[kind]]))
    writer.add_quantization_version(_quantization_version())
    for target, stored in types.items():
        shape, (block, size) = _shape(made, model.config, *weights[target]), GGML_QUANT_SIZES[stored]
        writer.add_tensor_info(target, shape, np.dtype(np.float32), prod(shape) // block * size, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, (target, stored) in enumerate(types.items()):
        if progress is not None:
            progress(f"writing {kind}", done, len(types), "")
        writer.write_tensor_data(_values(made, model.config, *weights[target], stored))
    if progress is not None:
        progress(f"writing {kind}", len(types), len(types), "")
    writer.close()


def write_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, aside: Path) -> None:
    """Write a file without weights, from which readers take the tokenizer as from a whole one."""
    writer = _described(config, tokenizer, aside)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _described(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, aside: Path) -> "GGUFWriter":
    """A file that says of what architecture the model is and how its tokenizer works."""
    from gguf import GGUFWriter

    made = architecture_of(config)
    writer = GGUFWriter(aside, made.name)
    made.describe(writer, config)
    vocabulary(tokenizer, config.vocab_size).describe(writer)
    return writer


def check_writable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise where `write_gguf` would refuse: an architecture, a weight or a tokenizer.

    Args:
        model: it may be on the meta device, without a weight.
        tokenizer: its tokenizer.
    """
    _weights(model, architecture_of(model.config))
    vocabulary(tokenizer, model.config.vocab_size)


def _weights(model: PreTrainedModel, made: Architecture) -> dict[str, tuple[str, Tensor]]:
    """By its name in the file, each weight with its name in the model; shared ones once."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(number for number, known in MODEL_ARCH_NAMES.items() if known == made.name)
    names = get_tensor_name_map(kind, model.config.num_hidden_layers)
    found: dict[str, tuple[str, Tensor]] = {}
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    for name, tensor in model.state_dict().items():
        if tied and tensor.data_ptr() == head.weight.data_ptr() and name.startswith("lm_head."):
            continue
        target = names.get_name(name, try_suffixes=_NAMES)
        if target is None:
            raise ExpungeError(f"the weight {name} has no place in a GGUF file of {made.name}. Take form=merged.")
        found[target] = (name, tensor)
    if (factors := rope_factors(model.config)) is not None:
        found[ROPE_FACTORS] = (ROPE_FACTORS, factors)
    return found


def _shape(made: Architecture, config: PretrainedConfig, name: str, tensor: Tensor) -> Sequence[int]:
    return tuple(made.layout(name, torch.empty_like(tensor, device="meta"), config).shape)


def _type(target: str, shape: Sequence[int], kind: Kind) -> "GGMLQuantizationType":
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) < 2 or target in _WHOLE:
        return GGMLQuantizationType.F32
    wanted = GGMLQuantizationType[kind.upper()]
    return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def _values(
    made: Architecture, config: PretrainedConfig, name: str, tensor: Tensor, stored: "GGMLQuantizationType"
) -> Shaped[np.ndarray, "*shape"]:
    """A weight as it lies in the file."""
    from gguf import quantize

    plain = made.layout(name, tensor.detach().cpu(), config).float().contiguous().numpy()
    return np.ascontiguousarray(quantize(plain, stored))


def _quantization_version() -> int:
    from gguf import GGML_QUANT_VERSION

    return int(GGML_QUANT_VERSION)
