"""The suite of `expunge.Unlearning`: six measures that need nothing but forget and retain data."""

from collections.abc import Collection

from expunge.evaluation.metrics.forget_quality import forget_quality
from expunge.evaluation.metrics.forget_share import forget_share
from expunge.evaluation.metrics.mia import mia
from expunge.evaluation.metrics.model_utility import model_utility
from expunge.evaluation.metrics.perplexity import perplexity
from expunge.evaluation.metrics.rouge import rouge
from expunge.evaluation.metrics.utility_share import utility_share
from expunge.evaluation.metrics.verbatim_memorization import verbatim_memorization
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.suites.tofu import tofu
from expunge.evaluation.views import View

NEW_TOKENS = 128


def unlearun(splits: Collection[str]) -> Suite:
    """Perplexity, forget quality, model utility, ROUGE, verbatim memorization and membership inference.

    With records of a retain model and the answer variants that TOFU's metrics need, `forget_quality` and
    `model_utility` are TOFU's; without, they are shares of the start model's probability. Each result names the
    definition it has.

    Args:
        splits: names of the splits of the corpus.
    """
    forget = View(Probe(split="forget", generate=True, max_new_tokens=NEW_TOKENS))
    retain = View(Probe(split="retain"))
    continuation = View(Probe(split="forget", answer="continuation", generate=True, max_new_tokens=NEW_TOKENS))
    as_tofu = {entry.name: entry for entry in tofu(splits).entries}
    quality, utility = as_tofu["forget_quality"], as_tofu["model_utility"]
    members = View(Probe(split="forget"))
    return Suite(
        "unlearun",
        (
            Entry(name="perplexity", metric=perplexity, views={"records": members}, better="higher"),
            Entry(name="forget_quality", metric=forget_quality, views=quality.views, note="TOFU's definition."),
            Entry(
                name="forget_quality",
                metric=forget_share,
                views={"records": members, "before": View(members.probe, "start")},
                note="unlearun.forget_quality, not TOFU's: share of the forget answers' probability that was removed.",
            ),
            Entry(
                name="model_utility",
                metric=model_utility,
                views=utility.views,
                requires=(
                    View(members.probe, "reference"),
                    utility.views["retain_correct"],
                    utility.views["retain_wrong"],
                ),
                gaps=utility.gaps,
                note="TOFU's definition.",
            ),
            Entry(
                name="model_utility",
                metric=utility_share,
                views={"records": retain, "before": View(retain.probe, "start")},
                note="unlearun.model_utility, not TOFU's: share of the retain answers' probability that was kept.",
            ),
            Entry(
                name="rouge",
                metric=rouge,
                views={"records": forget},
                options={"of": "fmeasure"},
                reads=("generation", "rougeL_f1"),
            ),
            Entry(name="verbatim_memorization", metric=verbatim_memorization, views={"records": continuation}),
            Entry(
                name="mia",
                metric=mia,
                views={
                    "forget": members,
                    "holdout": View(Probe(split="holdout")),
                    "reference_forget": View(members.probe, "reference"),
                    "reference_holdout": View(Probe(split="holdout"), "reference"),
                },
                options={"score": "loss"},
                reads=("logprobs", "mia_loss"),
            ),
            Entry(
                name="mia",
                metric=mia,
                views={"forget": members, "holdout": retain},
                options={"score": "loss"},
                reads=("logprobs", "mia_loss"),
                note="The retain set, whose texts were trained on too, replaces a holdout set: read with care.",
            ),
        ),
    )
