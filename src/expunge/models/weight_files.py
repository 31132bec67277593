"""The weight files of a model: which they are, and what their headers say, without reading a weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor

from expunge.core.checks import ExpungeError
from expunge.core.json_text import read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def weight_files(source: str | Path) -> list[Path]:
    """The weight files of a model, in the order in which transformers looks for them; none where one is not here yet.

    Raises:
        ExpungeError: a folder that lacks one.
    """
    folder = Path(source)
    if not folder.is_dir():
        index = cached(source, INDEX)
        names = _shards(index) if index else [SINGLE]
        found = [cached(source, name) for name in names]
        return [path for path in found if path] if all(found) else []
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise ExpungeError(
            f"'{source}' holds neither {SINGLE} nor {INDEX}: the weights of a model must be called so, and its shards "
            "must be listed in the index."
        )
    names = _shards(folder / INDEX)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ExpungeError(
            f"the model '{source}' is not complete: {INDEX} names {', '.join(missing)}, and no such file."
        )
    return [folder / name for name in names]


def cached(source: str | Path, name: str) -> Path | None:
    """A file of a model on the hub that was downloaded before; None where it was not."""
    found = try_to_load_from_cache(str(source), name)
    return Path(found) if isinstance(found, str) else None


def _shards(index: Path) -> list[str]:
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ExpungeError(f"{index} is no index of weight files: it must hold a 'weight_map' from names to files.")
    return sorted(set(shards.values()))


def headers(files: Sequence[Path]) -> dict[str, Tensor]:
    """Tensors without content, by name, from the headers of weight files.

    Raises:
        ExpungeError: a file that is no safetensors file, or not a whole one.
    """
    found: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    part: Any = file.get_slice(name)
                    found[name] = torch.empty(part.get_shape(), dtype=_DTYPES[part.get_dtype()], device="meta")
        except SafetensorError as error:
            raise ExpungeError(f"{path} is damaged: it is no whole safetensors file ({error}).") from error
        except KeyError as error:
            raise ExpungeError(f"{path} holds numbers of a type that is not known: {error}.") from error
    return found
