"""Does the model repeat itself? So that a collapse is not taken for forgetting."""

import numpy as np

from expunge.evaluation.metrics._rouge import words
from expunge.evaluation.metrics._views import generations, in_order, mean_measure, require_rows
from expunge.results.measures import Definition, Measure
from expunge.results.records import Records

DEFINITION = Definition(
    text="mean over examples of the share of the greedy generation's word 4-grams that stood in it before",
    source="seq-rep-4 of Welleck et al. 2019, arXiv:1908.04319, over words",
    better="lower",
    reads=("generation",),
    mean=True,
)

COLLAPSED = 0.3
SILENT = 0.5


def repetition(records: Records, *, n: int = 4) -> Measure:
    """Mean over examples of 1 - distinct n-grams / n-grams of the generation, in [0, 1]; 0 = says nothing twice.

    A generation of fewer than n words repeats nothing. `details` holds the share of generations without any word, which
    is the other way to collapse.

    Args:
        records: one row an example, with a generation.
        n: words of an n-gram.

    Raises:
        ExpungeError: no rows, or rows without a generation.

    Source: Welleck et al. 2019, arXiv:1908.04319. Departures: words (those of ROUGE) in place of tokens.
    """
    require_rows(records=records)
    said = [words(text, stemmer=False) for text in generations(in_order(records))]
    values = np.array([_repeated(tokens, n) for tokens in said])
    silent = float(np.mean([not tokens for tokens in said]))
    notes = []
    if values.mean() >= COLLAPSED:
        notes.append("Generations repeat themselves: low scores may come from a collapse rather than from forgetting.")
    if silent >= SILENT:
        notes.append(f"{silent:.0%} of the generations hold no word, which gives low scores without being forgetting.")
    return mean_measure(DEFINITION, values, better="lower", details={"wordless_share": silent}, note=" ".join(notes))


def _repeated(tokens: tuple[str, ...], n: int) -> float:
    grams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
