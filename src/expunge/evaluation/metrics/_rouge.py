"""Overlap of two texts in words: ROUGE-1 and ROUGE-L."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from expunge.core.normal_form import normal

_WORD = re.compile(r"[a-z0-9]+")
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_SHORT = 3  # words of up to so many characters are not stemmed


@dataclass(frozen=True)
class Overlap:
    """How two texts agree, each in [0, 1]."""

    precision: float
    recall: float

    @property
    def fmeasure(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@lru_cache(maxsize=2**16)
def rouge_l(true: str, said: str, *, stemmer: bool = True) -> Overlap:
    """ROUGE-L: the longest common subsequence of words, over the words of either text; 0 where one has none."""
    return _overlap(_common_subsequence, words(true, stemmer=stemmer), words(said, stemmer=stemmer))


@lru_cache(maxsize=2**16)
def rouge_1(true: str, said: str, *, stemmer: bool = True) -> Overlap:
    """ROUGE-1: common words, each counted at most as often as the other text has it, over the words of either text."""
    return _overlap(_common_words, words(true, stemmer=stemmer), words(said, stemmer=stemmer))


@lru_cache(maxsize=2**16)
def words(text: str, *, stemmer: bool = True) -> tuple[str, ...]:
    """The words of a text in lower case: runs of a-z and digits, and the words of other scripts than Latin.

    Of Latin letters only a-z count, as in the package rouge-score, which sees no other script at all. Scripts that put
    no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give one word a character. With `stemmer`,
    words in a-z of more than three letters are Porter-stemmed.
    """
    text = normal(text).lower()
    found = _WORD.findall(text) if text.isascii() else list(_words_of_scripts(text))
    return tuple(_stem(word) if stemmer and len(word) > _SHORT and word.isascii() else word for word in found)


def _words_of_scripts(text: str) -> Iterator[str]:
    word, kind = "", None
    for character in text:
        found = _kind(character)
        if found == "mark" and kind in ("other", "alone"):
            word += character  # part of the letter that it is written on
            continue
        if word and (found != kind or found == "alone"):
            yield word
            word = ""
        kind = None if found == "mark" else found
        word += character if kind else ""
    if word:
        yield word


@lru_cache(maxsize=2**14)
def _kind(character: str) -> str | None:
    """Which words a character is part of: `ascii`, of `other` scripts, `alone`, as a `mark` of its letter, or none."""
    if character.isascii():
        return "ascii" if character.isalnum() else None
    category = unicodedata.category(character)
    if category[0] == "M":
        return "mark"
    name = unicodedata.name(character, "")
    if category[0] not in "LN" or name.startswith("LATIN"):
        return None
    return "alone" if name.startswith(_UNSPACED) else "other"


def _overlap(
    count: Callable[[tuple[str, ...], tuple[str, ...]], int], true: tuple[str, ...], said: tuple[str, ...]
) -> Overlap:
    if not true or not said:
        return Overlap(0.0, 0.0)
    common = count(true, said)
    return Overlap(common / len(said), common / len(true))


def _common_words(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    return sum((Counter(a) & Counter(b)).values())


def _common_subsequence(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Length of the longest common subsequence, by bit vectors (Hyyrö 2004): a few integer operations a word of `b`."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full  # its zero bits count the steps in a row of the usual dynamic program
    for word in b:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(a) - row.bit_count()


@lru_cache(maxsize=2**18)
def _stem(word: str) -> str:
    return str(_porter().stem(word))


@lru_cache(maxsize=1)
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]  # takes a second to import

    return PorterStemmer()
