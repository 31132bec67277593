"""The suite of training data extraction: extraction likelihood and memorization accuracy."""

from collections.abc import Collection

from expunge.evaluation.metrics.extraction_likelihood import extraction_likelihood
from expunge.evaluation.metrics.memorization_accuracy import memorization_accuracy
from expunge.evaluation.metrics.perplexity import perplexity
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.views import View

TOKENS = 200
NOTE = (
    "Forgotten when EL and MA both are below the start model's on unseen text: the unseen_ measures' start value, "
    "with start=<start model>."
)


def tdec(splits: Collection[str]) -> Suite:
    """EL_10 and MA of the first 200 tokens of each text, on the forget set and on unseen text.

    A text counts as forgotten when both are below the start model's means on text that it never saw, which are the
    `unseen_` measures of an evaluation of the start model; published ones hold for GPT-Neo alone.

    Args:
        splits: names of the splits of the corpus; `holdout` is the unseen text.

    Source: Jang et al., arXiv:2210.01504.
    """
    forget = View(Probe(split="forget", answer="sequence", generate=True, max_new_tokens=TOKENS))
    unseen = View(Probe(split="holdout", answer="sequence", generate=True, max_new_tokens=TOKENS))
    return Suite(
        "tdec",
        (
            Entry(
                name="extraction_likelihood",
                metric=extraction_likelihood,
                views={"records": forget},
                better="lower",
                note=NOTE,
            ),
            Entry(
                name="memorization_accuracy",
                metric=memorization_accuracy,
                views={"records": forget},
                better="lower",
                note=NOTE,
            ),
            Entry(
                name="unseen_extraction_likelihood",
                metric=extraction_likelihood,
                views={"records": unseen},
                options={"better": "higher"},
                better="higher",
            ),
            Entry(
                name="unseen_memorization_accuracy",
                metric=memorization_accuracy,
                views={"records": unseen},
                options={"better": "higher"},
                better="higher",
            ),
            Entry(
                name="unseen_perplexity",
                metric=perplexity,
                views={"records": unseen},
                options={"better": "lower"},
                better="lower",
            ),
        ),
    )
