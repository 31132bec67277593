"""Bootstrap intervals: percentile, over examples, seeded. R = resamples."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000
LEVEL = 0.95
_MOST_DRAWS = 2**24  # drawn at once; more examples are drawn in several rounds


def bootstrap(
    statistic: Callable[..., np.ndarray], sizes: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, " resamples"]:
    """A statistic over resampled groups of examples.

    Args:
        statistic: gets one matrix [R, n] a group, how often each example was drawn, whose rows sum to n, and returns
            [R]. Quantities of the same examples share a group, so that pairs stay pairs.
        sizes: examples in each group, each at least 1.
        resamples: how many times to draw.
        seed: of the draws.

    Returns:
        The statistic of each resample, [R].
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, min(resamples, _MOST_DRAWS // max(1, sum(sizes))))
    found = []
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        found.append(statistic(*(_draws(rng, rows, n) for n in sizes)))
    return np.concatenate(found)


def _draws(rng: np.random.Generator, rows: int, n: int) -> Float[np.ndarray, "rows n"]:
    drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def percentile_interval(values: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """The central 95 % of resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Interval(tuple[float, float]):
    """An interval that keeps the resampled values it was taken from, so that two models can be compared by them."""

    resampled: np.ndarray | None = None


def interval(statistic: Callable[..., np.ndarray], sizes: Sequence[int]) -> tuple[float, float]:
    """95 % percentile interval of `bootstrap(statistic, sizes)`; an `Interval`."""
    drawn = bootstrap(statistic, sizes)
    found = Interval(percentile_interval(drawn))
    found.resampled = drawn
    return found


def paired_interval(one: tuple[float, float] | None, other: tuple[float, float] | None) -> tuple[float, float] | None:
    """95 % interval of the difference of two statistics over the same examples; much narrower than that of either.

    Draws depend on the number of examples alone, so that both were resampled alike. None where either interval keeps no
    resamples.
    """
    first, second = (getattr(given, "resampled", None) for given in (one, other))
    if first is None or second is None or first.shape != second.shape:
        return None
    return percentile_interval(first - second)


def mean_interval(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean over examples."""
    return interval(lambda drawn: drawn @ values / len(values), [len(values)])


def harmonic_mean(parts: Float[np.ndarray, "*r k"]) -> Float[np.ndarray, "*r"]:
    """Harmonic mean over the last axis; 0 where any part is 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(parts.shape[-1] / (1 / parts).sum(-1))


def zero_note(parts: Mapping[str, float]) -> str:
    """Which parts make a harmonic mean 0, however good the others are; nothing where none does."""
    zero = [name for name, value in parts.items() if value == 0]
    return f"0 because of {', '.join(zero)} alone, whatever the other parts are." if zero else ""
