"""The suite of MUSE: verbatim and knowledge memorization, privacy leakage, utility."""

from collections.abc import Collection

from expunge.evaluation.metrics.extraction_strength import extraction_strength
from expunge.evaluation.metrics.knowledge_memorization import knowledge_memorization
from expunge.evaluation.metrics.privleak import privleak
from expunge.evaluation.metrics.repetition import repetition
from expunge.evaluation.metrics.rouge import rouge
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.views import View

VERBATIM_TOKENS = 128
ANSWER_TOKENS = 32


def muse(splits: Collection[str]) -> Suite:
    """VerbMem and KnowMem on what was forgotten, PrivLeak, and KnowMem on what was kept, all from 0 to 1 but PrivLeak.

    The texts are long: give rows enough tokens, such as max_length=2048.

    Args:
        splits: names of the splits of the corpus, as the source `muse` names them. PrivLeak takes `privleak_forget` and
            `privleak_holdout` where they are there, else `forget` and `holdout`.

    Source: arXiv:2407.06460. Departures: words are stemmed, as in open-unlearning; values are plain, not times 100.
    """
    own = "privleak_forget" in splits
    members = Probe(split="privleak_forget" if own else "forget")
    others = Probe(split="privleak_holdout" if own else "holdout")
    recited = View(Probe(split="verbmem", answer="opening", generate=True, max_new_tokens=VERBATIM_TOKENS))
    known, kept = (
        View(Probe(split=split, generate=True, max_new_tokens=ANSWER_TOKENS))
        for split in ("knowmem_forget", "knowmem_retain")
    )
    return Suite(
        "muse",
        (
            Entry(
                name="verbmem",
                metric=rouge,
                views={"records": recited},
                options={"of": "fmeasure", "better": "lower"},
                better="lower",
                reads=("generation", "rougeL_f1"),
            ),
            Entry(
                name="knowmem_forget",
                metric=knowledge_memorization,
                views={"records": known},
                options={"better": "lower"},
                better="lower",
            ),
            Entry(
                name="privleak",
                metric=privleak,
                views={
                    "forget": View(members),
                    "holdout": View(others),
                    "reference_forget": View(members, "reference"),
                    "reference_holdout": View(others, "reference"),
                },
            ),
            Entry(
                name="knowmem_retain",
                metric=knowledge_memorization,
                views={"records": kept},
                options={"better": "higher"},
                better="higher",
            ),
            Entry(
                name="extraction_strength",
                metric=extraction_strength,
                views={"records": recited},
                options={"better": "lower"},
                better="lower",
            ),
            Entry(name="repetition", metric=repetition, views={"records": recited}),
        ),
    )
