"""ROUGE of generated answers."""

from dataclasses import replace
from typing import Literal

import numpy as np

from expunge.evaluation.metrics._rouge import rouge_1, rouge_l, words
from expunge.evaluation.metrics._views import direction, generations, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Direction, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="mean over examples of the overlap in words of the greedy generation with the true answer",
    source="Lin 2004, as in TOFU, arXiv:2401.06121",
    better=None,
    reads=("generation", "rougeL_recall"),
    mean=True,
)

Kind = Literal["rougeL", "rouge1"]
Of = Literal["recall", "fmeasure", "precision"]
_NAME = {"rougeL": "ROUGE-L", "rouge1": "ROUGE-1"}
_STORED_AS = {"recall": "recall", "fmeasure": "f1", "precision": "precision"}


def rouge(
    records: Records,
    *,
    kind: Kind = "rougeL",
    of: Of = "recall",
    stemmer: bool = True,
    better: Direction | None = None,
) -> Measure:
    """Mean over examples of the overlap of generation and true completion, in [0, 1]; an empty generation scores 0.

    Args:
        records: one row an example, with a generation (or the log's own ROUGE numbers).
        kind: `rougeL`: longest common subsequence of words; `rouge1`: words, clipped.
        of: `recall`, `precision`, or `fmeasure`, their harmonic mean.
        stemmer: reduce words longer than three letters to their stems. It reproduces the published TOFU and
            open-unlearning logs; muse_bench's own code sets it off.
        better: direction; None: lower on the forget set, higher elsewhere.

    Raises:
        ExpungeError: no rows, or rows without a generation.

    Source: Lin 2004; word rules of the package rouge-score. Departures: words of other scripts than Latin count, one a
    character where no spaces are written between words; texts are compared in Unicode's NFC; no
    bootstrapped aggregate, a plain mean.
    """
    require_rows(records=records)
    stems = "words stemmed" if stemmer else "words not stemmed"
    text = f"mean over examples of {_NAME[kind]} {of} of the greedy generation against the true answer, {stems}"
    return mean_measure(
        replace(DEFINITION, text=text),
        overlaps(records, kind=kind, of=of, stemmer=stemmer),
        better=direction(records, better),
        note=wordless(records),
    )


def overlaps(records: Records, *, kind: Kind = "rougeL", of: Of = "recall", stemmer: bool = True) -> np.ndarray:
    """The overlap of each row's generation with its completion, in order of index; a log's own where it has no text.

    Raises:
        ExpungeError: rows without a generation.
    """
    records = in_order(records)
    stored = stored_as(kind, of)
    if records.has(stored) and stemmer:
        return records.numbers(stored)
    score = rouge_l if kind == "rougeL" else rouge_1
    pairs = zip(records.column("completion"), generations(records), strict=True)
    return np.array([getattr(score(true, said, stemmer=stemmer), of) for true, said in pairs], dtype=np.float64)


def stored_as(kind: Kind, of: Of) -> str:
    """The column under which records from a log hold such numbers."""
    return f"{kind}_{_STORED_AS[of]}"


def wordless(records: Records) -> str:
    """A warning where true answers hold nothing that ROUGE can see; empty where all do."""
    if not records.has("completion"):
        return ""
    n = sum(not words(true) for true in records.column("completion"))
    return f"{n} true answers hold no word that ROUGE sees (a-z, digits, other scripts), and score 0." if n else ""
