"""Aggregates: one number of several measures, and what it says when one of them is missing."""

from statistics import harmonic_mean

import numpy as np
import pytest

from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.evaluation.aggregates import everything, memorization, privacy, utility, weighted_by_size
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.suites.multiple_choice import multiple_choice
from expunge.evaluation.suites.tofu import tofu
from expunge.evaluation.suites.wmdp import wmdp
from expunge.results.measures import Measure

KNOWN = ("extraction_strength", "exact_memorization", "paraphrased_probability", "truth_ratio_prob_mean")
SCORES = ("loss", "zlib", "min_k", "min_k_plus_plus")


def made(value: float | None, note: str = "", **details: float) -> Measure:
    return Measure(
        value=value, better="higher", definition="", source="", n=4, details=details, note=note or "none" * (not value)
    )


def test_memorization_by_hand():
    # 1 - m: 0.8, 0.5, 0.5, 1 -> 4 / (1.25 + 2 + 2 + 1) = 0.64
    values = (0.2, 0.5, 0.5, 0.0)
    found = memorization({f"forget_{name}": made(v) for name, v in zip(KNOWN, values, strict=True)})
    assert found.value == pytest.approx(0.64) and found.n == 4
    values = (0.2, 1.0, 0.5, 0.0)
    assert memorization({f"forget_{name}": made(v) for name, v in zip(KNOWN, values, strict=True)}).value == 0


def test_privacy_by_hand():
    # 4 / (1 + 1 + 2 + 4) = 0.5
    shares = (1.0, 1.0, 0.5, 0.25)
    found = privacy({f"mia_{name}": made(0.5, s_mia=s) for name, s in zip(SCORES, shares, strict=True)})
    assert found.value == pytest.approx(0.5)
    without = privacy({f"mia_{name}": made(0.5) for name in SCORES})
    assert without.value is None and "mia_loss, mia_zlib" in without.note and "reference=" in without.note


def test_utility_by_hand():
    # utility keeps 0.75 of the start model's, fluency 0.5: 2 * 0.75 * 0.5 / 1.25 = 0.6
    kept = {"model_utility": made(0.45, start_value=0.6), "forget_fluency": made(0.4, start_value=0.8)}
    assert utility(kept).value == pytest.approx(0.6) and not utility(kept).note
    alone = utility({"model_utility": made(0.45, start_value=0.6), "forget_fluency": made(None, "no classifier")})
    assert alone.value == pytest.approx(0.75) and "gibberish passes unseen" in alone.note
    assert utility({"model_utility": made(0.9, start_value=0.6)}).value == 1  # never above the start model
    assert "start=<its records>" in utility({"model_utility": made(0.9)}).note


def test_everything_by_hand():
    # 3 / (1 + 2 + 2) = 0.6
    parts = {f"agg_{name}": made(v) for name, v in (("memorization", 1.0), ("privacy", 0.5), ("utility", 0.5))}
    assert everything(parts).value == pytest.approx(0.6)


def test_groups_are_weighted_by_size():
    # 3 of 4 and 0 of 2 right: 3 of 6; chances 0.25 of 4 and 0.5 of 2: (1 + 1) / 6
    def task(*values: float, target: float) -> Measure:
        return Measure(
            value=float(np.mean(values)),
            better="near",
            target=target,
            definition="",
            source="",
            n=len(values),
            per_example=values,
        )

    derived = weighted_by_size("both", ["a", "b"], better="near")
    found = derived.combine({"a": task(1, 1, 1, 0, target=0.25), "b": task(0, 0, target=0.5)})
    assert (found.value, found.n, found.details) == (0.5, 6, {"a": 0.75, "b": 0.0})
    assert found.target == pytest.approx(1 / 3)
    # b adds nothing whichever is drawn, so the interval is that of a's mean, 4 / 6 times
    assert found.interval is not None and 0 < found.interval[0] < 0.5 < found.interval[1] <= 4 / 6


def test_the_suites_have_group_figures_where_there_are_groups(model, tokenizer):
    assert wmdp(["wmdp_bio", "mmlu_law", "mmlu_art"]).names[-1] == "mmlu_accuracy"
    assert [one.name for one in wmdp(["wmdp_bio", "other"]).derived] == []

    def asked(n: int) -> tuple[Example, ...]:
        return tuple(
            Example(kind="completion", prompt=f"Is {i} even?\nAnswer:", completion=" A", perturbed=(" B",))
            for i in range(n)
        )

    found = evaluate(model, tokenizer, Corpus({"wmdp_bio": asked(5), "wmdp_cyber": asked(2)}), suite="wmdp")
    assert found["wmdp_accuracy"].n == 7 and found["wmdp_accuracy"].target == 0.5
    assert found["wmdp_accuracy"].value == pytest.approx(
        (5 * float(found["wmdp_bio_accuracy"]) + 2 * float(found["wmdp_cyber_accuracy"])) / 7
    )


def test_the_suite_of_ones_own_questions_has_a_total_and_chance(model, tokenizer):
    def asked(n: int, *wrong: str) -> tuple[Example, ...]:
        return tuple(
            Example(kind="completion", prompt=f"Is {i} even?\nAnswer:", completion=" A", perturbed=wrong)
            for i in range(n)
        )

    tasks = {"law": asked(6, " B"), "art": asked(2, " B", " C", " D")}
    found = evaluate(model, tokenizer, Corpus(tasks), suite="multiple_choice")
    total, parts = found["total_accuracy"], [float(found[f"{task}_accuracy"]) for task in tasks]
    assert (total.n, total.better) == (8, "higher") and total.value == pytest.approx((6 * parts[0] + 2 * parts[1]) / 8)
    assert total.details["chance"] == pytest.approx((6 * 0.5 + 2 * 0.25) / 8) and list(found)[-1] == "total_accuracy"
    assert "chance" in str(found).splitlines()[1].split()
    names = multiple_choice(["mmlu_law", "mmlu_art", "other", "retain"]).names
    assert names[-2:] == ["mmlu_accuracy", "total_accuracy"] and "retain_accuracy" not in names
    assert multiple_choice(["law"]).names == ["law_accuracy"]  # its own total


def test_the_aggregates_of_a_model(model, other_model, tokenizer, corpus, tmp_path):
    asked = ["agg"]
    assert {"agg", "agg_privacy", "mia_zlib"} <= set(tofu(list(corpus)).select(asked).names)
    assert not any(name.startswith("agg") for name in tofu(list(corpus)).select(None).names)
    evaluate(other_model, tokenizer, corpus, suite="tofu", output_dir=tmp_path / "other")
    there = {"reference": tmp_path / "other", "start": tmp_path / "other"}
    found = evaluate(model, tokenizer, corpus, suite="tofu", metrics=asked, **there)
    known = [1 - float(found[f"forget_{name}"]) for name in KNOWN]
    assert found["agg_memorization"].value == pytest.approx(harmonic_mean(known)) and min(known) > 0
    shares = [found[f"mia_{name}"].details["s_mia"] for name in SCORES]
    assert found["agg_privacy"].value == pytest.approx(harmonic_mean(shares))
    # a random model has no utility to be kept
    assert found["agg"].value is None and "model_utility of the start model is 0" in found["agg"].note
    with pytest.raises(ExpungeError, match=r"agg is not available. Missing: it is made of agg_privacy.*retain model"):
        evaluate(model, tokenizer, corpus, suite="tofu", metrics=asked, start=tmp_path / "other")
