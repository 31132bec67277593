"""What metrics share: checks of the rows they are handed, and the measure that is a mean over examples."""

from typing import Any

import numpy as np
from jaxtyping import Float

from expunge.core.checks import ExpungeError
from expunge.evaluation.bootstrap import mean_interval
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

TINY = 1e-10
"""Added to denominators by the published code of TOFU's metrics and PrivLeak."""


def require_rows(**views: Records) -> None:
    """Raise where a view holds no row: a mean over nothing is no number."""
    for name, view in views.items():
        if not len(view):
            raise ExpungeError(f"no rows to score: the records passed as '{name}' are empty.")


def direction(view: Records, better: Direction | None) -> Direction:
    """The direction given, else that of a measure of knowledge: lower on the forget set, higher on any other."""
    return better or ("lower" if view.column("split")[0].startswith("forget") else "higher")


def mean_measure(
    definition: Definition, values: Float[np.ndarray, " n"], *, better: Direction, **fields: Any
) -> Measure:
    """The mean over examples, with its interval and the per-example values."""
    return definition.measure(
        float(values.mean()),
        n=len(values),
        better=better,
        interval=mean_interval(values),
        per_example=tuple(values.tolist()),
        **fields,
    )


def chance(correct: Records, wrong: Records) -> float:
    """Mean over examples of one over the number of their answers: what guessing gives."""
    groups = per_example(in_order(correct), in_order(wrong), names=("correct", "wrong"))
    return float(np.mean([1 / (1 + len(rows)) for rows in groups]))


def in_order(view: Records) -> Records:
    """The rows in order of index and number, so that row order never matters."""
    return view.where()


def generations(view: Records) -> list[str]:
    """What the model said, row by row.

    Raises:
        ExpungeError: a row without a generation.
    """
    if not view.has("generation"):
        raise ExpungeError(
            "this metric needs a generation for every row, and these records lack some. Evaluate the model again."
        )
    return view.column("generation")


def per_example(view: Records, others: Records, *, names: tuple[str, str]) -> list[np.ndarray]:
    """Which rows of `others` belong to each row of `view`, both in order, by the example's index.

    Raises:
        ExpungeError: an example of the one without a row in the other.
    """
    index, other = view.numbers("index"), others.numbers("index")
    lacking = np.setxor1d(index, other)
    if len(lacking):
        side = names[1] if lacking[0] in index else names[0]
        raise ExpungeError(
            f"{len(lacking)} examples have '{names[0]}' or '{names[1]}' but not both: example {int(lacking[0])} lacks "
            f"'{side}'."
        )
    if len(np.unique(index)) != len(index):
        raise ExpungeError(f"an example is twice in '{names[0]}'; one completion an example is expected.")
    return [np.flatnonzero(other == i) for i in index]
