"""Does the model answer questions about a text, with examples before each question?"""

import numpy as np

from expunge.evaluation.metrics._rouge import rouge_l
from expunge.evaluation.metrics._views import direction, generations, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

STOPS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer among examples ends: the next question that the model makes up is no part of it."""

DEFINITION = Definition(
    text=(
        "mean over questions of ROUGE-L F1 of the greedy answer, cut at a blank line or the next 'Question', against "
        "the true answer, words stemmed"
    ),
    source="KnowMem of MUSE, arXiv:2407.06460",
    better=None,
    reads=("generation", "rougeL_f1"),
    mean=True,
)


def knowledge_memorization(
    records: Records,
    *,
    stops: tuple[str, ...] = STOPS,
    stemmer: bool = True,
    better: Direction | None = None,
) -> Measure:
    """Mean over questions of ROUGE-L F1 of the cut generation against the true answer, in [0, 1].

    Args:
        records: one row a question, with a generation.
        stops: texts that end an answer, the earliest counts.
        stemmer: as in `rouge`; muse_bench's own code sets it off.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or rows without a generation.

    Source: MUSE, arXiv:2407.06460. Departures: words are stemmed unless set otherwise, as in open-unlearning.
    """
    require_rows(records=records)
    records = in_order(records)
    if records.has("rougeL_f1") and stemmer:  # a log's own number
        return mean_measure(DEFINITION, records.numbers("rougeL_f1"), better=direction(records, better))
    pairs = zip(records.column("completion"), generations(records), strict=True)
    values = [rouge_l(true, cut(said, stops), stemmer=stemmer).fmeasure for true, said in pairs]
    return mean_measure(DEFINITION, np.array(values), better=direction(records, better))


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the earliest of the stops, without outer blanks."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].strip()
