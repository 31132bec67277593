"""What of a run goes into a release: weights, configuration, tokenizer and record, and nothing else."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.json_text import read_object
from expunge.core.manifest import Manifest
from expunge.core.places import is_here, is_path, without_places
from expunge.core.surface import assigned
from expunge.models.adapter_files import ABOUT
from expunge.models.adapter_files import CONFIG as ADAPTER_CONFIG
from expunge.models.adapter_files import WEIGHTS as ADAPTER_WEIGHTS
from expunge.models.cached import is_cached
from expunge.models.load import adapter_base, bits_under, holds_adapter_alone
from expunge.models.weight_files import INDEX, weight_files
from expunge.record.statement import FILES as RECORD
from expunge.report.card import Form
from expunge.training.adapter import ADAPTER_FOLDER

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
_WITH_PLACES = ("*config.json", ABOUT)
"""Files that may name folders of the machine where they were written."""


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


def names_places(path: Path) -> bool:
    """Does a JSON file name a place on a machine, be it this one or another?"""
    return any(map(is_path, _texts(read_object(path))))


def released(path: Path, base_model: str | None) -> str | None:
    """A configuration as it is released: of folders of a machine, only their names; None where it is taken as it is.

    Args:
        path: any file of a run; only configurations are changed.
        base_model: what an adapter stands on, by its name on a hub.
    """
    if not any(fnmatchcase(path.name, pattern) for pattern in _WITH_PLACES):
        return None
    content = read_object(path)
    plain = {name: value for name, value in content.items() if name not in _NAMES_OF_PLACES or not is_path(value)}
    if plain.get(_BASE) is not None:
        plain[_BASE] = base_model
    plain = without_places(plain, is_here)
    return None if plain == content else json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def _texts(content: Any) -> Iterator[str]:
    """Every text in a JSON value, names of fields too."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        yield from content
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)


def base_of(run: Path, manifest: Manifest, form: Form, named: str | None) -> str | None:
    """The name on a hub of the model that a run began from; None where it is a folder and no name was given.

    Raises:
        ExpungeError: an adapter stands on a folder, and no name was given.
    """
    if named is not None:
        if is_path(named) or named.startswith((".", "/")):
            raise ExpungeError(f"base_model must be a name on a hub, such as user/model; got {named!r}.")
        return named
    start = str(manifest.results.get("start_model") or "")
    if form == "adapter":
        start = adapter_base(_adapter(run))
    if start and is_cached(start):
        return start
    if form == "adapter":
        raise ExpungeError(
            f"the adapter stands on {start}, a folder of this machine, which means nothing elsewhere. Name the model "
            f"as others find it: {assigned(base_model='user/model')}"
        )
    return None
