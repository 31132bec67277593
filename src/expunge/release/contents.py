"""What of a run goes into a release: weights, configuration, tokenizer and record, and nothing else."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache

from expunge.core.checks import ExpungeError
from expunge.core.json_text import read_object
from expunge.core.manifest import Manifest
from expunge.core.surface import assigned
from expunge.models.adapter_files import ABOUT
from expunge.models.adapter_files import CONFIG as ADAPTER_CONFIG
from expunge.models.adapter_files import WEIGHTS as ADAPTER_WEIGHTS
from expunge.models.load import adapter_base, bits_under, holds_adapter_alone
from expunge.models.weight_files import INDEX, weight_files
from expunge.record.statement import FILES as RECORD
from expunge.training.adapter import ADAPTER_FOLDER

Form = Literal["merged", "adapter", "gguf"]
FORMS: tuple[Form, ...] = ("merged", "adapter", "gguf")
CONFIGURATION = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja", "chat_template.json"),
    "additional_chat_templates/*.jinja",
)
"""Patterns of a tokenizer's files."""
_NAMES_OF_PLACES = ("_name_or_path", "name_or_path")
_BASE = "base_model_name_or_path"


def files_of(run: Path, form: Form) -> dict[str, Path]:
    """By their names in a release, the files of a run that are taken as they are; none of weights that are made anew.

    Raises:
        ExpungeError: the run has nothing in this form; the message says which it has.
    """
    found = {
        path.relative_to(run).as_posix(): path
        for pattern in TOKENIZER
        for path in sorted(run.glob(pattern))
        if path.is_file()
    }
    if form == "adapter":
        place = _adapter(run)
        return found | {
            name: place / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ABOUT) if (place / name).is_file()
        }
    if holds_adapter_alone(run):
        if bits_under(run) is not None:
            raise ExpungeError(
                f"the adapter in {run} stands on quantized weights, and merging would round it away. Take form=adapter."
            )
        return {} if form == "gguf" else found
    if form == "gguf":
        return {}
    return (
        found
        | {name: run / name for name in (*CONFIGURATION, INDEX) if (run / name).is_file()}
        | {path.name: path for path in weight_files(run)}
    )


def _adapter(run: Path) -> Path:
    """Where the adapter of a run is."""
    place = run if holds_adapter_alone(run) else run / ADAPTER_FOLDER
    if not (place / ADAPTER_CONFIG).is_file():
        raise ExpungeError(
            f"{run} holds whole weights and no adapter. Export them: form=merged. An adapter is made by unlearn with "
            f"{assigned(adapter='lora', save='adapter')}."
        )
    return place


def record_of(run: Path) -> dict[str, Path]:
    """The erasure record of a run and its signature, as far as there are such."""
    return {name: run / name for name in RECORD if (run / name).is_file()}


def names_places(path: Path) -> list[str]:
    """Folders and files of this machine that a JSON file names."""
    return sorted({text for _, text in _texts(read_object(path)) if is_place(text)})


def released(path: Path, base_model: str | None) -> str | None:
    """A JSON file as it is released, without folders of this machine; None where it can be taken as it is.

    Args:
        path: a configuration.
        base_model: what an adapter stands on, by its name on a hub.

    Raises:
        ExpungeError: it names a folder of this machine in a place where a name is needed.
    """
    if not fnmatchcase(path.name, "*config.json"):
        return None
    content = read_object(path)
    plain = {name: value for name, value in content.items() if name not in _NAMES_OF_PLACES or not is_place(value)}
    if plain.get(_BASE) is not None:
        plain[_BASE] = base_model
    if left := [f"{name}: {text}" for name, text in _texts(plain) if is_place(text)]:
        raise ExpungeError(
            f"{path} names what is on this machine, which a release must not: {', '.join(left[:3])}. Correct the file."
        )
    return None if plain == content else json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def is_place(text: Any) -> bool:
    """Is it the path of a file or folder of this machine, from its root on?"""
    if not isinstance(text, str) or text.count("/") + text.count("\\") < 2 or "\n" in text:
        return False
    try:
        return Path(text).is_absolute() and Path(text).exists()
    except (OSError, ValueError):
        return False  # no name of a file


def _texts(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, names of fields too, with where it is."""
    if isinstance(content, str):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield name, key
            yield from _texts(value, f"{name}.{key}".lstrip("."))
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value, name)


def base_of(run: Path, manifest: Manifest, form: Form, named: str | None) -> str | None:
    """The name on a hub of the model that a run began from; None where it is a folder and no name was given.

    Raises:
        ExpungeError: an adapter stands on a folder, and no name was given.
    """
    if named is not None:
        if is_place(named) or Path(named).is_absolute() or named.startswith("."):
            raise ExpungeError(f"base_model must be a name on a hub, such as user/model; got {named!r}.")
        return named
    start = str(manifest.results.get("start_model") or "")
    if form == "adapter":
        start = adapter_base(_adapter(run))
    if start and _is_cached(start):
        return start
    if form == "adapter":
        raise ExpungeError(
            f"the adapter stands on {start}, a folder of this machine, which means nothing elsewhere. Name the model "
            f"as others find it: {assigned(base_model='user/model')}"
        )
    return None


def _is_cached(name: str) -> bool:
    """Was a model loaded from a hub under this name?"""
    if Path(name).exists():
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:
        return False  # no name on a hub
