"""Judges: models of others that some metrics ask about texts. Optional, and never fetched unasked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from expunge.core.checks import ExpungeError, require_type, unknown
from expunge.core.json_text import read_object

EMBEDDER = "sentence-transformers/paraphrase-MiniLM-L6-v2"
CLASSIFIER = "madhurjindal/autonlp-Gibberish-Detector-492513457"

_EMBEDDER: ContextVar[str] = ContextVar("embedder", default=EMBEDDER)
_CLASSIFIER: ContextVar[str] = ContextVar("classifier", default=CLASSIFIER)
JUDGES = {"embedding": _EMBEDDER, "gibberish": _CLASSIFIER}
"""What judges are for, and which one is asked."""

_CLEAN = 0  # the classifier's class for clean text
_MOST_TOKENS = 32  # of a generation that the classifier reads
_AT_ONCE = 64
_SENTENCES = "sentence_bert_config.json"  # where sentence-transformers keeps the longest text


@contextmanager
def asking(judges: Mapping[str, str] | None) -> Iterator[None]:
    """Ask these judges meanwhile instead of the usual ones.

    Args:
        judges: `embedding` (sentence embeddings) or `gibberish` (is a text clean?) to the folder or hub id of a model.

    Raises:
        ExpungeError: a judge of something else.
    """
    tokens = []
    if judges is not None:
        require_type("judges", judges, Mapping, "a mapping of judges to folders or hub ids")  # type: ignore[type-abstract]
    for what, name in (judges or {}).items():
        if what not in JUDGES:
            raise unknown("judge", what, JUDGES)
        tokens.append((JUDGES[what], JUDGES[what].set(name)))
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def embedder() -> str:
    """The model that embeds sentences now."""
    return _EMBEDDER.get()


def classifier() -> str:
    """The model that judges texts now."""
    return _CLASSIFIER.get()


def not_at_hand(name: str) -> str:
    """Why a judge cannot be asked, and how to get it; empty where it is in the cache of the hub, or in a folder."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).is_dir():
        return ""
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return ""
    except HFValidationError:
        return f"it needs the model {name}, and no such folder is here"
    return (
        f"it needs the model {name}, which is not downloaded. Download it once: hf download {name}; or name "
        "another one, in a folder: judges.embedding=<folder>, judges.gibberish=<folder>"
    )


def no_embedder() -> str:
    """Why sentences cannot be embedded; empty where they can."""
    return not_at_hand(_EMBEDDER.get())


def no_classifier() -> str:
    """Why gibberish cannot be detected; empty where it can."""
    return not_at_hand(_CLASSIFIER.get())


def embeddings(texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Sentence embeddings of length 1: the mean of the last hidden states over a text's tokens.

    Of a longer text the first tokens count, as many as the model's `sentence_bert_config.json` says, as
    sentence-transformers has it.

    Raises:
        ExpungeError: the model is not downloaded.
    """
    import torch
    from transformers import AutoModel

    tokenizer, model = _loaded(_EMBEDDER.get(), AutoModel)
    cut: dict[str, Any] = {"truncation": True, "max_length": _longest(_EMBEDDER.get())}
    found = []
    for first in range(0, len(texts), _AT_ONCE):
        batch = tokenizer(list(texts[first : first + _AT_ONCE]), padding=True, return_tensors="pt", **cut)
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        found.append(((states * mask).sum(1) / mask.sum(1)).double().numpy())
    vectors = np.concatenate(found)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def clean_probabilities(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """The probability that each text is clean rather than one of three kinds of gibberish.

    Raises:
        ExpungeError: the model is not downloaded.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer, model = _loaded(_CLASSIFIER.get(), AutoModelForSequenceClassification)
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


def _longest(name: str) -> int | None:
    """Tokens of a text that an embedder reads; None: as its tokenizer has it."""
    from huggingface_hub import try_to_load_from_cache

    held = Path(name) / _SENTENCES if Path(name).is_dir() else try_to_load_from_cache(name, _SENTENCES)
    return read_object(held).get("max_seq_length") if isinstance(held, str | Path) and Path(held).is_file() else None


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
