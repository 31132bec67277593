"""One normal form in which texts are compared: an accent typed as one character or as two is the same text."""

import unicodedata


def normal(text: str) -> str:
    """The text in Unicode's composed normal form, NFC."""
    return unicodedata.normalize("NFC", text)


def caseless(text: str) -> str:
    """The text in that form, upper and lower case alike."""
    return normal(normal(text).casefold())
