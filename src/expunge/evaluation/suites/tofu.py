"""The suite of TOFU: forget, retain, real authors, world facts."""

from collections.abc import Collection
from typing import Any

from expunge.evaluation.aggregates import AGGREGATES
from expunge.evaluation.metrics.answer_contained import answer_contained
from expunge.evaluation.metrics.exact_memorization import exact_memorization
from expunge.evaluation.metrics.extraction_strength import extraction_strength
from expunge.evaluation.metrics.fluency import fluency
from expunge.evaluation.metrics.forget_quality import forget_quality
from expunge.evaluation.metrics.mia import COLUMNS, mia
from expunge.evaluation.metrics.mia_reference import mia_reference
from expunge.evaluation.metrics.model_utility import model_utility
from expunge.evaluation.metrics.privleak import privleak
from expunge.evaluation.metrics.probability import probability
from expunge.evaluation.metrics.probability_normalized import probability_normalized
from expunge.evaluation.metrics.refusal_rate import refusal_rate
from expunge.evaluation.metrics.relative_difference import relative_difference
from expunge.evaluation.metrics.repetition import repetition
from expunge.evaluation.metrics.rouge import rouge
from expunge.evaluation.metrics.truth_ratio import truth_ratio
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.views import View

NEW_TOKENS = 200
RETAIN_ROWS = 400

_ROUGE_READS = ("generation", "rougeL_recall")


def tofu(splits: Collection[str]) -> Suite:
    """Forget quality, model utility and their parts, with membership inference where a holdout set is there.

    On request, by name: gradient norms, fluency, relative difference to the retain model, the truth ratio's third
    aggregate, `agg` and its three parts (memorization, privacy, utility), `rephrased_...`, the forget set asked with
    the paraphrased questions, and for real authors and world facts `..._probability_summed` and `..._no_end`, the
    right answer's share of the probability by other forms than TOFU's.

    Args:
        splits: names of the splits of the corpus. `retain_perturbed` is evaluated where it is there, else `retain`, at
            most 400 rows of it drawn with a fixed seed; a split `world` stands for `world_facts`.

    Source: arXiv:2401.06121, row counts of open-unlearning, arXiv:2506.12618.
    """
    retain = "retain_perturbed" if "retain_perturbed" in splits else "retain"
    limit = None if retain == "retain_perturbed" else RETAIN_ROWS
    world = "world" if "world" in splits and "world_facts" not in splits else "world_facts"

    def probe(split: str, answer: str = "answer", *, generate: bool = False, **more: Any) -> Probe:
        return Probe(
            split=split,
            answer=answer,  # type: ignore[arg-type]
            generate=generate,
            max_new_tokens=NEW_TOKENS,
            **more,
            limit=limit if split == retain else None,
        )

    forget, forget_said = View(probe("forget")), View(probe("forget", generate=True))
    forget_correct, forget_wrong = View(probe("forget", "paraphrased")), View(probe("forget", "perturbed"))
    retained, retain_said = View(probe(retain)), View(probe(retain, generate=True))
    retain_correct, retain_wrong = View(probe(retain, "paraphrased")), View(probe(retain, "perturbed"))

    def membership(**more: Any) -> dict[str, View]:
        members, others = probe("forget", **more), probe("holdout", **more)
        return {
            "forget": View(members),
            "holdout": View(others),
            "reference_forget": View(members, "reference"),
            "reference_holdout": View(others, "reference"),
        }

    rephrased: dict[str, Any] = {"asked": "paraphrased_question"}
    rephrased_answer = View(probe("forget", **rephrased))
    rephrased_said = View(probe("forget", generate=True, **rephrased))
    entries = [
        Entry(name="forget_probability", metric=probability, views={"records": forget}),
        Entry(name="forget_rouge", metric=rouge, views={"records": forget_said}, reads=_ROUGE_READS),
        Entry(name="forget_repetition", metric=repetition, views={"records": forget_said}),
        Entry(name="forget_extraction_strength", metric=extraction_strength, views={"records": forget}),
        Entry(name="forget_exact_memorization", metric=exact_memorization, views={"records": forget}),
        Entry(name="forget_truth_ratio", metric=truth_ratio, views={"correct": forget_correct, "wrong": forget_wrong}),
        Entry(
            name="forget_quality",
            metric=forget_quality,
            views={
                "correct": forget_correct,
                "wrong": forget_wrong,
                "reference_correct": View(forget_correct.probe, "reference"),
                "reference_wrong": View(forget_wrong.probe, "reference"),
            },
        ),
        Entry(
            name="forget_paraphrased_probability", metric=probability, views={"records": forget_correct}, better="lower"
        ),
        Entry(
            name="forget_paraphrased_rouge",
            metric=rouge,
            views={"records": View(probe("forget", "paraphrased", generate=True))},
            better="lower",
        ),
        Entry(name="retain_probability", metric=probability, views={"records": retained}),
        Entry(name="retain_rouge", metric=rouge, views={"records": retain_said}, reads=_ROUGE_READS),
        Entry(name="retain_repetition", metric=repetition, views={"records": retain_said}),
        Entry(name="retain_extraction_strength", metric=extraction_strength, views={"records": retained}),
        Entry(
            name="retain_truth_ratio",
            metric=truth_ratio,
            views={"correct": retain_correct, "wrong": retain_wrong},
            options={"aggregate": "true_better"},
        ),
    ]
    for split, name in (("real_authors", "real_authors"), (world, "world_facts")):
        answers, said, wrong = View(probe(split)), View(probe(split, generate=True)), View(probe(split, "perturbed"))
        entries += [
            Entry(
                name=f"{name}_probability", metric=probability_normalized, views={"correct": answers, "wrong": wrong}
            ),
            *(
                Entry(
                    name=f"{name}_probability_{form}",
                    metric=probability_normalized,
                    views={"correct": answers, "wrong": wrong},
                    options={"form": form},
                    reads=("logprobs",),
                    on_request=True,
                )
                for form in ("summed", "no_end")
            ),
            Entry(name=f"{name}_rouge", metric=rouge, views={"records": said}, reads=_ROUGE_READS),
            Entry(name=f"{name}_answer_contained", metric=answer_contained, views={"records": said}),
            Entry(
                name=f"{name}_truth_ratio",
                metric=truth_ratio,
                views={"correct": answers, "wrong": wrong},
                options={"aggregate": "true_better"},
            ),
        ]
    entries += [
        Entry(
            name="model_utility",
            metric=model_utility,
            views={
                "retain": retain_said,
                "retain_correct": retain_correct,
                "retain_wrong": retain_wrong,
                "real_authors": View(probe("real_authors", generate=True)),
                "real_authors_wrong": View(probe("real_authors", "perturbed")),
                "world_facts": View(probe(world, generate=True)),
                "world_facts_wrong": View(probe(world, "perturbed")),
            },
            gaps=("rougeL_recall",),
        ),
        *(
            Entry(name=f"mia_{s}", metric=mia, views=membership(), options={"score": s}, reads=COLUMNS[s])
            for s in ("loss", "zlib", "min_k")
        ),
        Entry(
            name="mia_min_k_plus_plus",
            metric=mia,
            views=membership(moments=True),
            options={"score": "min_k_plus_plus"},
            reads=COLUMNS["min_k_plus_plus"],
        ),
        Entry(
            name="mia_reference",
            metric=mia_reference,
            views=membership(),
            requires=(View(probe("forget"), "reference"), View(probe("holdout"), "reference")),
            reads=("logprobs",),
        ),
        Entry(
            name="mia_reference",
            metric=mia_reference,
            views={"forget": View(probe("forget")), "holdout": View(probe("holdout"))},
            reads=("mia_reference",),
            note="Compared with the reference model of the log.",
        ),
        Entry(
            name="mia_grad_norm",
            metric=mia,
            views=membership(gradients=True),
            options={"score": "grad_norm"},
            reads=COLUMNS["grad_norm"],
            on_request=True,
        ),
        Entry(name="privleak", metric=privleak, views=membership()),
        Entry(
            name="forget_relative_difference",
            metric=relative_difference,
            views={"records": forget, "reference": View(forget.probe, "reference")},
            on_request=True,
        ),
        Entry(
            name="forget_truth_ratio_prob_mean",
            metric=truth_ratio,
            views={"correct": forget_correct, "wrong": forget_wrong},
            options={"aggregate": "prob_mean"},
            reads=("logprobs", "avg_loss"),
            better="lower",
            on_request=True,
        ),
        Entry(
            name="forget_refusal_rate",
            metric=refusal_rate,
            views={"records": forget_said, "reference": View(forget_said.probe, "reference")},
            better="neither",
        ),
        Entry(
            name="retain_refusal_rate",
            metric=refusal_rate,
            views={"records": retain_said, "reference": View(retain_said.probe, "reference")},
            better="lower",
        ),
        Entry(
            name="forget_fluency",
            metric=fluency,
            views={"records": forget_said},
            on_request=True,
        ),
        Entry(
            name="rephrased_extraction_strength",
            metric=extraction_strength,
            views={"records": rephrased_answer},
            better="lower",
            on_request=True,
        ),
        Entry(
            name="rephrased_exact_memorization",
            metric=exact_memorization,
            views={"records": rephrased_answer},
            better="lower",
            on_request=True,
        ),
        Entry(
            name="rephrased_probability",
            metric=probability,
            views={"records": rephrased_answer},
            better="lower",
            on_request=True,
        ),
        Entry(name="rephrased_rouge", metric=rouge, views={"records": rephrased_said}, better="lower", on_request=True),
        Entry(
            name="rephrased_truth_ratio",
            metric=truth_ratio,
            views={
                "correct": View(probe("forget", "paraphrased", **rephrased)),
                "wrong": View(probe("forget", "perturbed", **rephrased)),
            },
            on_request=True,
        ),
    ]
    return Suite("tofu", tuple(entries), AGGREGATES)
