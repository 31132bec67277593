"""Overlap of two texts in words: ROUGE-1 and ROUGE-L."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_WORD = re.compile(r"[a-z0-9]+")
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
    """Runs of a-z and digits of the text in lower case; with `stemmer`, those longer than three are Porter-stemmed."""
    found = _WORD.findall(text.lower())
    return tuple(_stem(word) if stemmer and len(word) > _SHORT else word for word in found)


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
