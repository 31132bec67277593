"""Texts of the data and of what a model wrote, in saved results: kept, replaced by their hashes, or left out."""

import hashlib
from typing import Literal, get_args

from expunge.core.checks import ExpungeError

Texts = Literal["keep", "hash", "drop"]
"""With `hash`, who has the data can check what was asked. A short answer can be guessed from its hash."""
_HASHED = "sha256:"


def check_texts(texts: str) -> None:
    """Raise for anything but keep, hash and drop."""
    if texts not in get_args(Texts):
        raise ExpungeError(f"texts must be {', '.join(get_args(Texts))}; got {texts!r}.")


def text_hash(text: str) -> str:
    """The SHA-256 of a text in UTF-8, with its name in front."""
    return f"{_HASHED}{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def is_hash(text: str) -> bool:
    """Does this stand for a text that was left out?"""
    return text.startswith(_HASHED) and len(text) == len(_HASHED) + 64
