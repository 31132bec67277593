"""Judges: models of others that some metrics ask about texts. Optional, and never fetched unasked."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from expunge.core.checks import ExpungeError

EMBEDDER = "sentence-transformers/paraphrase-MiniLM-L6-v2"
CLASSIFIER = "madhurjindal/autonlp-Gibberish-Detector-492513457"

_CLEAN = 0  # the classifier's class for clean text
_MOST_TOKENS = 32  # of a generation that the classifier reads
_AT_ONCE = 64


def not_at_hand(name: str) -> str:
    """Why a judge cannot be asked, and how to get it; empty where it is in the cache of the hub, or in a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return ""
    return f"it needs the model {name}, which is not downloaded. Download it once: hf download {name}"


def no_embedder() -> str:
    """Why sentences cannot be embedded; empty where they can."""
    return not_at_hand(EMBEDDER)


def no_classifier() -> str:
    """Why gibberish cannot be detected; empty where it can."""
    return not_at_hand(CLASSIFIER)


def embeddings(texts: Sequence[str], *, name: str = EMBEDDER) -> Float[np.ndarray, "n d"]:
    """Sentence embeddings of length 1: the mean of the last hidden states over a text's tokens.

    Raises:
        ExpungeError: the model is not downloaded.
    """
    import torch
    from transformers import AutoModel

    tokenizer, model = _loaded(name, AutoModel)
    found = []
    for first in range(0, len(texts), _AT_ONCE):
        batch = tokenizer(list(texts[first : first + _AT_ONCE]), padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        found.append(((states * mask).sum(1) / mask.sum(1)).double().numpy())
    vectors = np.concatenate(found)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def clean_probabilities(texts: Sequence[str], *, name: str = CLASSIFIER) -> Float[np.ndarray, " n"]:
    """The probability that each text is clean rather than one of three kinds of gibberish.

    Raises:
        ExpungeError: the model is not downloaded.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer, model = _loaded(name, AutoModelForSequenceClassification)
    found: list[float] = []
    for first in range(0, len(texts), _AT_ONCE):
        batch = tokenizer(
            list(texts[first : first + _AT_ONCE]),
            padding=True,
            truncation=True,
            max_length=_MOST_TOKENS,
            return_tensors="pt",
        )
        with torch.no_grad():
            found += model(**batch).logits.double().softmax(-1)[:, _CLEAN].tolist()
    return np.array(found)


@cache
def _loaded(name: str, kind: Any) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    reason = not_at_hand(name)
    if reason:
        raise ExpungeError(f"cannot judge texts: {reason}.")
    return (
        AutoTokenizer.from_pretrained(name, local_files_only=True),
        kind.from_pretrained(name, local_files_only=True, use_safetensors=True).eval(),
    )
