"""Does the model recite the rest of a text from its beginning?"""

from expunge.evaluation.metrics._views import direction, mean_measure, require_rows
from expunge.evaluation.metrics.rouge import overlaps, wordless
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text=(
        "mean over examples of ROUGE-L F1 of the greedy continuation against the true one, words stemmed, after the "
        "first 50 tokens of prompt and answer, or after half of the answer's tokens where that comes later or the text "
        "is shorter; both continuations end after 128 tokens"
    ),
    source="after VerbMem of MUSE, arXiv:2407.06460",
    better=None,
    reads=("generation",),
    mean=True,
)


def verbatim_memorization(records: Records, *, better: Direction | None = None) -> Measure:
    """Mean over examples of ROUGE-L F1 of the greedy continuation of a text against its true continuation, in [0, 1].

    Args:
        records: one row an example, of the `continuation` kind, with a generation.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or rows without a generation.

    Source: VerbMem of MUSE, arXiv:2407.06460. Departures: the cut is put so that short texts have a continuation too,
    where a fixed cut after 50 tokens would leave nothing and count as not memorized.
    """
    require_rows(records=records)
    values = overlaps(records, kind="rougeL", of="fmeasure")
    return mean_measure(DEFINITION, values, better=direction(records, better), note=wordless(records))
