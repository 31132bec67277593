"""Counts of facts with their uncertainty: one share, and two shares of the same facts."""

import math
from dataclasses import dataclass

from scipy.stats import binomtest

SOURCE = (
    "Exact interval of a share (Clopper and Pearson 1934, Biometrika 26:404); Newcombe's interval of the difference of "
    "two shares of the same facts (Newcombe 1998, Statistics in Medicine 17:2635, method 10); McNemar's exact test, "
    "two-sided."
)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Paired:
    """The same facts under two models: for how many something holds before and after."""

    both: int
    before: int
    """Before alone."""
    after: int
    """After alone."""
    neither: int

    @property
    def n(self) -> int:
        """Facts."""
        return self.both + self.before + self.after + self.neither

    @property
    def difference(self) -> float:
        """Share after minus share before."""
        return (self.after - self.before) / self.n

    @property
    def interval(self) -> Interval:
        """95 % interval of the difference; unlike a bootstrap's it has a width also where all facts agree."""
        a, b, c, d, n = self.both, self.after, self.before, self.neither, self.n
        one, two = (a + b) / n, (a + c) / n
        (low1, high1), (low2, high2) = wilson(a + b, n), wilson(a + c, n)
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        cross = a * d - b * c
        phi = (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(margins) if margins else 0.0

        def reach(x: float, y: float) -> float:
            return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

        middle = one - two
        return middle - reach(one - low1, high2 - two), middle + reach(high1 - one, two - low2)

    @property
    def p(self) -> float:
        """McNemar's exact p-value: could as many have changed one way as the other by chance?"""
        changed = self.before + self.after
        return 1.0 if not changed else float(binomtest(self.before, changed, 0.5).pvalue)

    @property
    def reversed(self) -> "Paired":
        """The same of what does not hold."""
        return Paired(both=self.neither, before=self.after, after=self.before, neither=self.both)


def paired(before: list[bool], after: list[bool]) -> Paired:
    """The four counts of facts that were looked at twice."""
    pairs = list(zip(before, after, strict=True))
    return Paired(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def share_interval(count: int, n: int) -> Interval:
    """95 % interval of a share, exact after Clopper and Pearson, so that 0 of few is not taken for 0 of many."""
    found = binomtest(count, n).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def wilson(count: int, n: int) -> Interval:
    """95 % interval of a share by Wilson's score, of which Newcombe's interval of a difference is made."""
    found = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
