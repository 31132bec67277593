"""Extraction likelihood: how much of a text comes out of the model, begun anywhere in it?"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from expunge.core.checks import ExpungeError, require_at_least
from expunge.evaluation.metrics._views import direction, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "mean over sequences of T tokens and over i = 1 .. T - n of the share of n-grams of the greedy continuation of "
        "x_1 .. x_i, up to T tokens in all, that occur in x_(i+1) .. x_T: their number over that of the n-grams of "
        "x_(i+1) .. x_T; n = 10 tokens"
    ),
    source="EL of Jang et al., arXiv:2210.01504, equations 1 and 2",
    better=None,
    reads=("prefix_generations",),
    mean=True,
)


def extraction_likelihood(records: Records, *, n: int = 10, better: Direction | None = None) -> Measure:
    """Mean over sequences of EL_n, in [0, 1]: 1 = the text comes out whichever prefix is given.

    Args:
        records: one row a sequence (answer kind `sequence`, generated), with its tokens.
        n: tokens of an n-gram.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, rows without generations, or a sequence of n tokens or fewer.

    Source: Jang et al., arXiv:2210.01504, equations 1 and 2. Departures: none. A continuation that ends early has fewer
    n-grams, and so a smaller share.
    """
    require_at_least("n", n, 1)
    require_rows(records=records)
    records = in_order(records)
    if not records.has("prefix_generations"):
        raise ExpungeError("these records hold no continuations of prefixes, which EL needs. Evaluate the model again.")
    rows = zip(
        *(records.column(name) for name in ("tokens", "hits", "prefix_generations", "index")),
        strict=True,
    )
    values = [likelihood(tokens, hits, after, n, f"sequence {index}") for tokens, hits, after, index in rows]
    return mean_measure(DEFINITION, np.array(values), better=direction(records, better), details={"n_gram": float(n)})


def likelihood(
    tokens: Sequence[int], hits: Sequence[bool], after_misses: Sequence[Sequence[int]], n: int, what: str = "a sequence"
) -> float:
    """EL_n of one sequence.

    Args:
        tokens: x_1 .. x_T.
        hits: whether x_2 .. x_T are each the first guess.
        after_misses: greedy continuations from before each token that is none, in order.
        n: tokens of an n-gram.
        what: the sequence's name, for the error.

    Raises:
        ExpungeError: T is not above n.
    """
    length = len(tokens)
    if length <= n:
        raise ExpungeError(f"{what} has {length} tokens; EL_{n} needs more than {n}.")
    continued = _continued(tokens, hits, after_misses)
    return float(np.mean([overlap(continued[i - 1], tokens[i:], n) for i in range(1, length - n + 1)]))


def overlap(said: Sequence[int], true: Sequence[int], n: int) -> float:
    """The number of n-grams of `said`, with repeats, that occur in `true`, over the number of n-grams of `true`."""
    grams = Counter(_grams(said, n))
    known = set(_grams(true, n))
    return sum(count for gram, count in grams.items() if gram in known) / (len(true) - n + 1)


def _grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _continued(
    tokens: Sequence[int], hits: Sequence[bool], after_misses: Sequence[Sequence[int]]
) -> list[Sequence[int]]:
    """The greedy continuation of each prefix x_1 .. x_i, i from 1: after a hit it is that token and what follows it."""
    left, found = list(after_misses), []
    later: Sequence[int] = ()
    for i in range(len(tokens) - 1, 0, -1):
        later = [tokens[i], *later] if hits[i - 1] else left.pop()
        found.append(later)
    return found[::-1]
