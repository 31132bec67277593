"""Measures and evaluations: what they insist on, and their way through a file."""

import copy
import json
import math
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest

from expunge.core.checks import ExpungeError
from expunge.core.sealed import write_sealed
from expunge.results.measures import Definition, Evaluation, Measure, Sample
from expunge.results.texts import text_hash

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


def test_a_measure_is_a_number():
    measure, missing = DEFINITION.measure(0.25, n=4, better="lower"), DEFINITION.missing("no holdout set")
    assert measure == 0.25 and 0.25 == measure and not measure != 0.25 and measure < 0.3 and max(measure, 0.1) == 0.25
    assert DEFINITION.measure(1.0, n=1, better="lower") == 1 and hash(measure) == hash(0.25)
    assert measure + 1 == 1.25 and 1 - measure == 0.75 and sum([measure, measure]) == 0.5 and -measure == -0.25
    assert round(measure, 1) == 0.2 and abs(measure) == 0.25 and f"{measure:.3f}" == "0.250"
    assert math.isnan(missing) and missing != missing + 0 and not missing < 1
    array = np.array([measure, missing])
    assert array.dtype == np.float64 and array[0] == 0.25 and np.isnan(array[1])


def test_chance_stands_beside_the_measures_that_have_one():
    guessed = DEFINITION.measure(0.3, n=8, better="higher", interval=(0.1, 0.5), details={"chance": 0.25})
    lines = str(Evaluation({"choice": guessed, "rouge": DEFINITION.measure(0.5, n=8, better="lower")})).splitlines()
    assert lines[1].split()[:6] == ["measure", "value", "95", "%", "interval", "chance"]
    assert lines[2].split()[:4] == ["choice", "0.3", "0.1–0.5", "0.25"] and lines[3].split()[:3] == [
        "rouge",
        "0.5",
        "-",
    ]
    both = replace(guessed, details={"chance": 0.25, "start_value": 0.4})
    assert str(Evaluation({"choice": both})).splitlines()[2].split()[:5] == ["choice", "0.3", "0.1–0.5", "0.4", "0.25"]
    beside = replace(guessed, details={"chance": 0.25, "start_value": 0.4, "reference_value": 0.2})
    head, line = str(Evaluation({"choice": beside})).splitlines()[1:]
    assert head.split()[5:8] == ["start", "retain", "chance"] and line.split()[3:6] == ["0.4", "0.2", "0.25"]
    assert "chance" not in str(Evaluation({"rouge": DEFINITION.measure(0.5, n=8, better="lower")}))


def test_a_measure_goes_into_json_and_data_frames():
    measure, missing = DEFINITION.measure(0.25, n=4, better="lower"), DEFINITION.missing("no holdout set")
    assert json.dumps({"rouge": measure}) == '{"rouge": 0.25}' and json.dumps([measure], indent=1) == "[\n 0.25\n]"
    found = Evaluation({"rouge": measure, "mia": missing, "odd": DEFINITION.measure(math.inf, n=1, better="lower")})
    assert json.dumps(found.numbers()) == '{"rouge": 0.25, "mia": null, "odd": null}'
    pandas = pytest.importorskip("pandas", reason="pandas comes with datasets")
    assert pandas.Series(dict(found)).dtype == np.float64
    assert pandas.DataFrame([found.numbers()])["rouge"].tolist() == [0.25]


def test_measures_are_equal_in_all_that_they_say():
    measure = DEFINITION.measure(0.25, n=4, better="lower", details={"D": 0.5})
    assert measure == replace(measure) and not measure != replace(measure)
    assert measure != replace(measure, n=5) and measure < replace(measure, value=0.5)
    for same in (copy.copy(measure), copy.deepcopy(measure), pickle.loads(pickle.dumps(measure))):
        assert same == measure and same.details == {"D": 0.5} and same.n == 4
    assert DEFINITION.missing("why") == DEFINITION.missing("why") != DEFINITION.missing("why not")
    assert asdict(measure)["value"] == 0.25


def test_rows_of_an_older_evaluation_are_read(tmp_path):
    old = {"split": "forget", "question": "q", "answer": "a", "generation": "g"}
    write_sealed(tmp_path / "old.json", {"label": "m", "suite": "s", "about": {}, "measures": {}, "samples": [old]})
    assert Evaluation.load(tmp_path / "old.json").samples == (Sample(**old),)


def test_a_row_is_shown_with_its_texts_or_their_hashes_or_without():
    row = Sample(
        split="forget", question="q", answer="ab", generation="g", values={"x": 0.5}, probabilities=(0.1,), ends=(2,)
    )
    assert row.with_texts("keep") is row
    hashed, dropped = row.with_texts("hash"), row.with_texts("drop")
    assert hashed.question == text_hash("q") and hashed.generation == text_hash("g")
    assert (dropped.question, dropped.answer, dropped.generation) == ("", "", None)
    for one in (hashed, dropped):
        assert one.values == {"x": 0.5} and one.probabilities == (0.1,) and one.ends == ()
