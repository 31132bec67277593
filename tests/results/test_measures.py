"""Measures and evaluations: what they insist on, and their way through a file."""

import math

import pytest

from expunge.core.checks import ExpungeError
from expunge.results.measures import Definition, Evaluation, Measure, Sample

DEFINITION = Definition(text="how it is computed", source="a paper", better=None)


def test_near_needs_a_target_and_nothing_needs_a_reason():
    with pytest.raises(ValueError, match="near"):
        Measure(value=0.5, better="near", definition="d", source="s", n=1)
    with pytest.raises(ValueError, match="what is missing"):
        Measure(value=None, better="lower", definition="d", source="s", n=0)


def test_a_definition_makes_measures():
    measure = DEFINITION.measure(0.25, n=4, better="lower", note="well")
    assert (measure.value, measure.definition, measure.source, measure.better, measure.note) == (
        0.25,
        "how it is computed",
        "a paper",
        "lower",
        "well",
    )
    with pytest.raises(ValueError, match="direction"):
        DEFINITION.measure(0.25, n=4)
    assert "0.125" not in repr(DEFINITION.measure(0.25, n=1, better="lower", per_example=(0.125,)))  # may be thousands
    missing = DEFINITION.missing("no holdout set", better="lower")
    assert missing.value is None and missing.note == "no holdout set" and missing.better == "lower"


def test_an_evaluation_is_a_mapping_that_survives_a_file(tmp_path):
    measure = DEFINITION.measure(
        0.25, n=2, better="near", target=0.5, interval=(0.1, 0.4), per_example=(0.2, math.nan), details={"D": 0.5}
    )
    found = Evaluation(
        {"mia": measure, "missing": DEFINITION.missing("why")},
        label="mine",
        suite="tofu",
        samples=(Sample(split="forget", question="q", answer="ä", generation="g"),),
        about={"dtype": "float32"},
    )
    again = Evaluation.load(found.save(tmp_path / "deep" / "evaluation.json"))
    assert list(again) == ["mia", "missing"] and len(again) == 2
    assert again.samples == found.samples and again.about == found.about and again.label == "mine"
    assert again["missing"] == found["missing"]
    first, second = again["mia"].per_example
    assert first == 0.2 and math.isnan(second)
    assert again["mia"].interval == (0.1, 0.4) and again["mia"].details == {"D": 0.5}
    assert again.labeled("other").label == "other"
    with pytest.raises(KeyError, match="no measure 'x' in this evaluation; it holds mia, missing"):
        again["x"]


def test_no_evaluation_there(tmp_path):
    with pytest.raises(ExpungeError, match="Make one: expunge evaluate"):
        Evaluation.load(tmp_path / "evaluation.json")
