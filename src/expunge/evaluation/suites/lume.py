"""The suite of LUME: recited completions, answered questions, membership."""

from collections.abc import Collection

from expunge.evaluation.metrics.exact_match import exact_match
from expunge.evaluation.metrics.extraction_strength import extraction_strength
from expunge.evaluation.metrics.mia import COLUMNS, mia
from expunge.evaluation.metrics.probability import probability
from expunge.evaluation.metrics.repetition import repetition
from expunge.evaluation.metrics.rouge import rouge
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.views import View

NEW_TOKENS = 256


def lume(splits: Collection[str]) -> Suite:
    """ROUGE-L recall of completions, exact answers to questions, on forget and retain; membership where available.

    Args:
        splits: names of the splits of the corpus, as the source `lume` names them.

    Source: arXiv:2502.15097. Departures: its aggregate over tasks and MMLU are left to the reader.
    """
    entries = []
    for part in ("forget", "retain"):
        completed = View(Probe(split=f"{part}_completion", generate=True, max_new_tokens=NEW_TOKENS))
        answered = View(Probe(split=f"{part}_questions", generate=True, max_new_tokens=NEW_TOKENS))
        whole = View(Probe(split=part))
        entries += [
            Entry(name=f"{part}_regurgitation", metric=rouge, views={"records": completed}),
            Entry(name=f"{part}_knowledge", metric=exact_match, views={"records": answered}),
            Entry(name=f"{part}_probability", metric=probability, views={"records": whole}),
            Entry(name=f"{part}_extraction_strength", metric=extraction_strength, views={"records": whole}),
            Entry(name=f"{part}_repetition", metric=repetition, views={"records": completed}),
        ]
    members, others = Probe(split="forget"), Probe(split="holdout")
    entries.append(
        Entry(
            name="mia_loss",
            metric=mia,
            views={
                "forget": View(members),
                "holdout": View(others),
                "reference_forget": View(members, "reference"),
                "reference_holdout": View(others, "reference"),
            },
            options={"score": "loss"},
            reads=COLUMNS["loss"],
        )
    )
    return Suite("lume", tuple(entries))
