"""`expunge experiment locality` and `attributions`: what is printed is what was found."""

import json
import re

import pytest


@pytest.fixture
def words(model_folder, data, tmp_path):
    return (
        f"retain={model_folder}",
        f"data.forget={data}/forget.jsonl",
        f"data.retain={data}/retain.jsonl",
        *("teaching.learning_rate=3e-2", "teaching.epochs=2", "teaching.batch_size=6"),
        *("unlearning.learning_rate=1e-2", "unlearning.epochs=2", "unlearning.batch_size=6"),
        *("methods=npo", "ratio=0.2", "workers=1", f"output={tmp_path}/out"),
    )


@pytest.mark.slow
def test_tables_and_page(call, words, tmp_path):
    asked = ("seeds=2", "attributions=[activation,random]", "margins.aues=0.2", "matching.epochs=1")
    code, text, err = call("experiment", "locality", *words, *asked)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "locality.json").read_text())
    oracle = found["found"]["npo"]["aues_hypervolume"]["oracle"]
    number = r"([\d.e-]+)"
    pattern = rf"^npo\s+AUES hypervolume\s+oracle\s+{number} ± \S+\s+{number} ± \S+\s+{number}"
    (line,) = re.findall(pattern, text, re.MULTILINE)
    assert [float(cell) for cell in line] == pytest.approx([*oracle["means"], oracle["difference"]], rel=5e-3)
    assert oracle["margin"] == 0.2 and "(within 0.2)" in text
    (line,) = re.findall(r"^activation\s+(\S+) ± \S+\s+(\S+)\s+(\S+)$", text, re.MULTILINE)
    precisions = [one["precision"] for one in found["recovered"]["activation"]]
    assert float(line[0]) == pytest.approx(sum(precisions) / 2, abs=5e-3) == float(line[1])
    assert "Reverse check: with the region put back" in text and "Of the retain set" in text
    assert "MU95 is not available: forget quality needs paraphrased_answer" in text
    for place in ("oracle", "random a", "random b", "random c"):
        strengths = [one["forget_strength"] for one in found["matched"] if one["place"] == place]
        (line,) = re.findall(rf"^{place}\s+(\S+) ± ", text, re.MULTILINE)
        assert len(strengths) == 2 and float(line) == pytest.approx(sum(strengths) / 2, rel=5e-3)
    assert {"curves.png", "comparison.html", "cells.png", "cells.svg"} <= {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.slow
def test_attributions_are_unlearned_in(call, words, tmp_path):
    code, text, err = call(
        "experiment", "attributions", *words, "seeds=1", "places=[random,magnitude]", "attributions=[]"
    )
    assert code == 0, err
    assert re.search(r"^npo\s+AUES hypervolume\s+magnitude\s", text, re.MULTILINE)
    assert "match_retain" not in text and "MU95 was left out" in text


def test_errors(call, model_folder, tmp_path):
    code, _, err = call("experiment", "locality", f"retain={model_folder}", f"output={tmp_path}/out")
    assert code == 2 and "retain and data go together" in err
    code, _, err = call("experiment", "locality", "--quality", "false", "workers=0", f"output={tmp_path}/out")
    assert code == 2 and "workers" in err
