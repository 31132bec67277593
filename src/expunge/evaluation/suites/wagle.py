"""The suite of WAGLE: unlearning efficacy UE and utility UT on TOFU, with their parts."""

from collections.abc import Collection

from expunge.evaluation.metrics.answer_contained import answer_contained
from expunge.evaluation.metrics.forget_accuracy import forget_accuracy
from expunge.evaluation.metrics.rouge import rouge
from expunge.evaluation.metrics.wagle_efficacy import wagle_efficacy
from expunge.evaluation.metrics.wagle_forget_quality import wagle_forget_quality
from expunge.evaluation.metrics.wagle_mia import wagle_mia
from expunge.evaluation.metrics.wagle_utility import wagle_utility
from expunge.evaluation.probe import Answer, Asked, Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.views import View

NEW_TOKENS = 200
RETAIN_ROWS = 400
WHOLE = 10**6
"""Tokens of a text that count: all."""


def wagle(splits: Collection[str]) -> Suite:
    """UE = mean(FQ, MIA, 1 - FA, 1 - RL) and UT = mean of accuracy and ROUGE-L on what must stay.

    FA, UE and UT need a sentence embedding model; without it they are missing, not approximated. FQ and MIA have the
    opposite sense of TOFU's measures of these names.

    Args:
        splits: names of the splits of the corpus; of `retain` at most 400 rows where there is no `retain_perturbed`.

    Source: arXiv:2410.17509.
    """
    retain = "retain_perturbed" if "retain_perturbed" in splits else "retain"

    def view(
        split: str,
        answer: Answer = "answer",
        *,
        asked: Asked = "question",
        generate: bool = False,
        max_new_tokens: int = NEW_TOKENS,
    ) -> View:
        limit = RETAIN_ROWS if split == "retain" else None
        return View(
            Probe(
                split=split, answer=answer, asked=asked, generate=generate, max_new_tokens=max_new_tokens, limit=limit
            )
        )

    def asked_anew(split: str) -> dict[str, View]:
        rephrased: Asked = "paraphrased_question"
        return {
            "rephrased": view(split, asked=rephrased, generate=True),
            "correct": view(split, "paraphrased", asked=rephrased),
            "wrong": view(split, "perturbed", asked=rephrased),
        }

    said = {split: view(split, generate=True) for split in ("forget", retain, "real_authors", "world_facts")}
    forget, kept = asked_anew("forget"), asked_anew(retain)
    texts = {split: view(split, "sequence", max_new_tokens=WHOLE) for split in ("forget", retain)}
    quality = {
        "correct": forget["correct"],
        "wrong": forget["wrong"],
        "retain_correct": kept["correct"],
        "retain_wrong": kept["wrong"],
    }
    return Suite(
        "wagle",
        (
            Entry(
                name="UE",
                metric=wagle_efficacy,
                views={
                    "forget": said["forget"],
                    "rephrased": forget["rephrased"],
                    **quality,
                    "forget_texts": texts["forget"],
                    "retain_texts": texts[retain],
                },
            ),
            Entry(name="UE_forget_quality", metric=wagle_forget_quality, views=quality),
            Entry(name="UE_mia", metric=wagle_mia, views={"forget": texts["forget"], "retain": texts[retain]}),
            Entry(
                name="UE_forget_accuracy",
                metric=forget_accuracy,
                views={"records": forget["rephrased"], "correct": forget["correct"], "wrong": forget["wrong"]},
                better="lower",
            ),
            Entry(name="UE_rouge", metric=rouge, views={"records": said["forget"]}, better="lower"),
            Entry(
                name="UT",
                metric=wagle_utility,
                views={
                    "retain": said[retain],
                    "retain_rephrased": kept["rephrased"],
                    "retain_correct": kept["correct"],
                    "retain_wrong": kept["wrong"],
                    "real_authors": said["real_authors"],
                    "world_facts": said["world_facts"],
                },
            ),
            *(
                Entry(name=f"UT_{split}_accuracy", metric=answer_contained, views={"records": said[split]})
                for split in ("real_authors", "world_facts")
            ),
            *(
                Entry(name=f"UT_{name}_rouge", metric=rouge, views={"records": said[split]})
                for name, split in (
                    ("retain", retain),
                    ("real_authors", "real_authors"),
                    ("world_facts", "world_facts"),
                )
            ),
        ),
    )
