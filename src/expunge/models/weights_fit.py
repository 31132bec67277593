"""Do the weights in a model's files belong to its configuration? Nothing is drawn at random or left out in silence."""

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import filterfalse
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from expunge.core.checks import ExpungeError

_MASKS = re.compile(r"\b(attn|attention)\.(masked_)?bias$|\brotary_emb\.inv_freq$")
"""Causal masks and frequencies, which published files of GPT-Neo and others of its time hold: constants, no weights."""


def check_weights(source: str | Path, model: str, found: Mapping[str, Collection[Any]]) -> None:
    """Raise unless every weight of an architecture was in the files, with its shape, and nothing else was.

    Tied weights, and those that an architecture makes up by itself, are no fault.

    Args:
        source: folder or hub id, for the message.
        model: name of the architecture.
        found: what transformers reports of the loading: `missing_keys`, `unexpected_keys`, and `mismatched_keys` as
            (name, shape in the file, shape in the model).
    """
    shapes = [
        f"{name}: {list(file)} in the file, {list(own)} in the model" for name, file, own in found["mismatched_keys"]
    ]
    faults = [
        _listed(f"the files lack {{}} of {model}", found["missing_keys"]),
        _listed(
            f"the files hold {{}} that {model} does not have", filterfalse(_MASKS.search, found["unexpected_keys"])
        ),
        _listed("{} of another shape", shapes),
    ]
    if any(faults):
        raise ExpungeError(
            f"the weights of the model '{source}' do not fit its config.json: {'; '.join(filter(None, faults))}. "
            "Weights that are not in the files would be random. Put the config.json that belongs to the weights there, "
            "or the weights that belong to the config.json."
        )


def check_adapter(folder: str | Path, stored: Iterable[str], expected: Iterable[str], of_model: Iterable[str]) -> None:
    """Raise unless an adapter's file holds what its configuration describes on this model, and nothing else.

    Args:
        folder: of the adapter, for the message.
        stored: names in its file.
        expected: names that its configuration calls for.
        of_model: names of the model's own weights, which an adapter may hold as well.
    """
    stored, expected = set(stored), set(expected)
    faults = [
        _listed("the file lacks {}", expected - stored),
        _listed("the file holds {} that the model has no place for", stored - expected - set(of_model)),
    ]
    if any(faults):
        raise ExpungeError(
            f"the adapter in {folder} does not fit its adapter_config.json or the model: "
            f"{'; '.join(filter(None, faults))}. Is it an adapter of this model, and are both files of one adapter?"
        )


def check_causal(source: str | Path, config: PretrainedConfig) -> None:
    """Raise for models that do not write text from left to right, as far as their configuration says so."""
    kind = str(config.model_type)
    if getattr(config, "is_encoder_decoder", False):
        what = "has an encoder and a decoder"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        what = "is an encoder, whose tokens see those after them"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "AutoModelForCausalLM" not in (
        getattr(config, "auto_map", None) or {}
    ):
        what = "is none that transformers has a causal language model for"
    else:
        return
    raise ExpungeError(
        f"'{source}' (model_type {kind}) {what}. expunge needs a causal language model, such as Llama, Qwen, Gemma or "
        "GPT-2."
    )


def _listed(sentence: str, names: Iterable[str]) -> str:
    """The sentence with a count of names and the first three; empty without any."""
    names = sorted(names)
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{sentence.format(f'{len(names)} weight' + 's' * (len(names) > 1))} ({shown})"
