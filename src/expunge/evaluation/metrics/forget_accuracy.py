"""Is the generated answer nearer in meaning to the right answer than to every wrong one?"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from expunge.evaluation import judges
from expunge.evaluation.metrics._views import (
    direction,
    generations,
    in_order,
    mean_measure,
    per_example,
    require_rows,
)
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "share of questions whose greedy generation is nearer, by cosine of sentence embeddings, to the paraphrased "
        "answer than to every perturbed one"
    ),
    source="FA of WAGLE, arXiv:2410.17509",
    better=None,
    reads=("generation", "completion"),
    mean=True,
)
UNAVAILABLE = judges.no_embedder


def forget_accuracy(records: Records, correct: Records, wrong: Records, *, better: Direction | None = None) -> Measure:
    """Share of questions answered with the right meaning, in [0, 1]; also the accuracy on the retain set.

    Args:
        records: one row a question, with a generation.
        correct: the paraphrased answer of each, of which the text counts.
        wrong: its perturbed answers, likewise.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, rows without a generation, different questions, or no embedding model.

    Source: WAGLE, arXiv:2410.17509. Departures: a tie counts as wrong; an empty generation too.
    """
    require_rows(records=records, correct=correct, wrong=wrong)
    values = accuracies(records, correct, wrong)
    return mean_measure(embedded(DEFINITION), values, better=direction(records, better))


def embedded(definition: Definition) -> Definition:
    """The definition of a measure with the model whose embeddings it takes."""
    return replace(definition, text=f"{definition.text}; embedded by {judges.embedder()}")


def accuracies(records: Records, correct: Records, wrong: Records) -> Float[np.ndarray, " n"]:
    """1 where a generation is nearest to the right answer, else 0, in order of index."""
    records, correct, wrong = in_order(records), in_order(correct), in_order(wrong)
    per_example(records, correct, names=("records", "correct"))
    said, right, others = generations(records), correct.column("completion"), wrong.column("completion")
    groups = per_example(correct, wrong, names=("correct", "wrong"))
    vectors = judges.embeddings([*said, *right, *others])
    s, r, w = vectors[: len(said)], vectors[len(said) : 2 * len(said)], vectors[2 * len(said) :]
    nearer = [float(s[i] @ r[i] > (w[rows] @ s[i]).max()) for i, rows in enumerate(groups)]
    return np.array([near if text.strip() else 0.0 for near, text in zip(nearer, said, strict=True)])
