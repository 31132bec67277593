"""The suite behind trade-off curves: what each point of a curve is made of, and nothing else."""

from collections.abc import Collection
from dataclasses import replace

from expunge.evaluation.metrics.extraction_strength import extraction_strength
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.suites.tofu import tofu
from expunge.evaluation.views import View

FORGET, RETAIN = "forget_extraction_strength", "retain_extraction_strength"
PARAPHRASED = "forget_paraphrased_extraction_strength"
QUALITY, UTILITY = "forget_quality", "model_utility"


def tradeoff(splits: Collection[str]) -> Suite:
    """Extraction strength on forget and retain set, forget quality and model utility, as in the suite `tofu`.

    Extraction strength on the paraphrased forget questions, too.

    Args:
        splits: names of the splits of the corpus.
    """
    paraphrased = Entry(
        name=PARAPHRASED,
        metric=extraction_strength,
        views={"records": View(Probe(split="forget", asked="paraphrased_question"))},
        better="lower",
    )
    shared = tofu(splits).select([FORGET, RETAIN, QUALITY, UTILITY])
    return replace(shared, name="tradeoff", entries=(*shared.entries, paraphrased))
