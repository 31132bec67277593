"""Texts that are alike: repeated within a set, or nearly the same in two. Linear in the number of texts."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import islice

SHINGLE = 3
"""Words that are compared as one."""
ALIKE = 0.7
"""Share of the shingles of two texts together that both hold, from which on the texts are nearly the same."""
FEWEST = 8
"""Words from which on a text is compared by shingles; of shorter ones a single other word changes most of them."""
CANDIDATES = 32
"""Texts that one text is compared with at most: those that share its rarest shingles."""
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Japanese, Chinese: each sign counts as a word
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and spacing."""
    return tuple(_WORD.findall(text.casefold()))


def repeated(texts: Sequence[Hashable]) -> list[tuple[int, int]]:
    """(number of the later text, number of the first one that equals it), in order."""
    first: dict[Hashable, int] = {}
    return [(n, first[text]) for n, text in enumerate(texts) if first.setdefault(text, n) != n]


def nearly_the_same(ones: Sequence[str], others: Sequence[str]) -> list[tuple[int, int]]:
    """(number in `ones`, number in `others`) of texts that are equal but for case, punctuation and a few words.

    For each of `others` the most similar of `ones` is named, if their shingles agree to a share of `ALIKE`.
    The shingles of `ones` are indexed. Of two texts that agree to that share, one has to hold one of the other's rarest
    shingles (prefix filtering), so that few texts are compared; at most `CANDIDATES` for each.
    """
    split = [words(text) for text in ones]
    exact = {text: n for n, text in reversed([*enumerate(split)])}
    sets = [_shingles(text) for text in split]
    frequency = Counter(shingle for shingles in sets for shingle in shingles)
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for n, shingles in enumerate(sets):
        for shingle in _rarest(shingles, frequency):
            index[shingle].append(n)
    found = []
    for m, text in enumerate(others):
        asked = words(text)
        same = exact.get(asked) if asked else None
        best = _most_similar(_shingles(asked), sets, index, frequency) if same is None else same
        if best is not None:
            found.append((best, m))
    return found


def _shingles(text: Sequence[str]) -> frozenset[tuple[str, ...]]:
    if len(text) < FEWEST:
        return frozenset()
    return frozenset(zip(*(text[i:] for i in range(SHINGLE)), strict=False))


def _rarest(shingles: frozenset[tuple[str, ...]], frequency: Counter[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The shingles of which one at least is shared with any text that agrees to a share of `ALIKE`, rarest first."""
    ordered = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
    return ordered[: len(ordered) - math.ceil(ALIKE * len(ordered)) + 1]


def _most_similar(
    shingles: frozenset[tuple[str, ...]],
    sets: Sequence[frozenset[tuple[str, ...]]],
    index: dict[tuple[str, ...], list[int]],
    frequency: Counter[tuple[str, ...]],
) -> int | None:
    sharing = (n for shingle in _rarest(shingles, frequency) for n in index.get(shingle, ())[:CANDIDATES])
    candidates = set(islice(sharing, CANDIDATES))
    shares = {n: len(shingles & sets[n]) / len(shingles | sets[n]) for n in candidates}
    best = max(sorted(shares), key=lambda n: shares[n], default=None)
    return best if best is not None and shares[best] >= ALIKE else None
