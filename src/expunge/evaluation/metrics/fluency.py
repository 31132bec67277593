"""Does the model still write sense? Judged by a classifier of gibberish."""

from dataclasses import replace

import numpy as np

from expunge.evaluation import judges
from expunge.evaluation.metrics._views import generations, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "mean over examples of the probability of the class 'clean' that a classifier of gibberish gives the generation"
    ),
    source="open-unlearning, arXiv:2506.12618",
    better="higher",
    reads=("generation",),
    mean=True,
)
UNAVAILABLE = judges.no_classifier

COLLAPSED = 0.5


def fluency(records: Records) -> Measure:
    """Mean probability that a generation is clean text rather than gibberish, in [0, 1].

    Args:
        records: one row an example, with a generation.

    Raises:
        ExpungeError: no rows, rows without a generation, or no classifier.

    Source: open-unlearning, arXiv:2506.12618. Departures: a generation without a letter scores 0 without being shown to
    the classifier.
    """
    require_rows(records=records)
    said = generations(in_order(records))
    worded = [i for i, text in enumerate(said) if text.strip()]
    values = np.zeros(len(said))
    values[worded] = judges.clean_probabilities([said[i] for i in worded])
    note = (
        "Most generations are no clean text: low scores may come from a collapse." if values.mean() < COLLAPSED else ""
    )
    definition = replace(DEFINITION, text=f"{DEFINITION.text}; classified by {judges.classifier()}")
    return mean_measure(definition, values, better="higher", note=note)
