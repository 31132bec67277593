"""The suite for data of one's own: what can be said with a forget and a retain set, and more where more is there."""

from collections.abc import Collection
from dataclasses import replace

from expunge.evaluation.metrics.verbatim_memorization import verbatim_memorization
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.suites.tofu import tofu
from expunge.evaluation.views import View

CONTINUATION_TOKENS = 128

_LEFT_OUT = ("real_authors", "world_facts", "forget_paraphrased", "model_utility")
_SAID = tuple(f"{name}_{metric}" for name in _LEFT_OUT[:2] for metric in ("rouge", "answer_contained"))
"""Of the first two, taken all the same where the data hold these sets: what must stay, by what a model says."""
_BORROWED = (
    "made by rule: the wrong answers are three answers to other questions of the same set, the right one is the plain "
    "answer"
)
_REWORDED = "made by rule: the question stands in another frame, its own words unchanged"


def default(splits: Collection[str]) -> Suite:
    """Probability, ROUGE, extraction strength and memorization on forget and retain; the rest where the data allow it.

    Where the data hold `real_authors` or `world_facts`, what a model says there is measured too: does it contain the
    answer, and ROUGE.

    Truth ratios and forget quality (which also needs a retain model) take the paraphrased and wrong answers of the
    data, and where there are none, wrong answers borrowed from other rows; `rephrased_...` likewise the paraphrased
    questions, else reworded ones. Membership inference needs a holdout set. What was made by rule is named in the
    measure's definition.

    Args:
        splits: names of the splits of the corpus.
    """
    shared = [entry for entry in tofu(splits).entries if _taken(entry, splits)]
    continuation = Probe(split="forget", answer="continuation", generate=True, max_new_tokens=CONTINUATION_TOKENS)
    recited = Entry(
        name="forget_verbatim_memorization",
        metric=verbatim_memorization,
        views={"records": View(continuation)},
        better="lower",
    )
    at = next(i for i, entry in enumerate(shared) if entry.name.startswith("retain"))
    entries = (*shared[:at], recited, *shared[at:])
    # The first entry of a name that is available counts, so what is made by rule comes after what the data hold.
    return Suite("default", (*entries, *(made for entry in entries if (made := _by_rule(entry)) is not None)))


def _taken(entry: Entry, splits: Collection[str]) -> bool:
    if entry.name in _SAID:
        return all(view.probe.split in splits for view in entry.views.values())
    return not entry.name.startswith(_LEFT_OUT)


def _by_rule(entry: Entry) -> Entry | None:
    """The same measure on answers or questions made by rule; None where it asks for none that can be made."""
    asked = any(view.probe.asked == "paraphrased_question" for view in entry.views.values())
    wrong = any(view.probe.answer == "perturbed" for view in entry.views.values())
    if not asked and not wrong:
        return None
    views = {name: replace(view, probe=_probe_by_rule(view.probe)) for name, view in entry.views.items()}
    made = [text for text, applies in ((_BORROWED, wrong), (_REWORDED, asked)) if applies]
    return replace(entry, views=views, derived_by="; ".join(made))


def _probe_by_rule(probe: Probe) -> Probe:
    asked = "reworded_question" if probe.asked == "paraphrased_question" else probe.asked
    answer = {"perturbed": "borrowed", "paraphrased": "answer"}.get(probe.answer, probe.answer)
    return replace(probe, asked=asked, answer=answer)  # type: ignore[arg-type]
