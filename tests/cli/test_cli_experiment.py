"""`expunge experiment locality`: what is printed is what was found."""

import json
import re

import pytest


def test_tables_and_page(call, model_folder, data, tmp_path):
    words = (f"retain={model_folder}", f"data.forget={data}/forget.jsonl", f"data.retain={data}/retain.jsonl")
    teaching = ("teaching.learning_rate=3e-2", "teaching.epochs=2", "teaching.batch_size=6")
    unlearning = ("unlearning.learning_rate=1e-2", "unlearning.epochs=2", "unlearning.batch_size=6")
    asked = ("methods=npo", "seeds=2", "ratio=0.2", "attributions=[activation,random]", f"output={tmp_path}/out")
    code, text, err = call("experiment", "locality", *words, *teaching, *unlearning, *asked)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "locality.json").read_text())
    assert set(found["found"]["npo"]) == {"aues_hypervolume", "aues_trapezoid"}
    assert re.search(r"^npo\s+AUES hypervolume", text, re.MULTILINE) and "sign-flip p" in text
    (line,) = re.findall(r"^activation\s+(\S+) ± \S+\s+(\S+)\s+(\S+)$", text, re.MULTILINE)
    precisions = [one["precision"] for one in found["recovered"]["activation"]]
    assert float(line[0]) == pytest.approx(sum(precisions) / 2, abs=5e-3) == float(line[1])
    assert "Reverse check: with the region put back" in text and "Of the retain set" in text
    assert (tmp_path / "out" / "curves.png").is_file() and (tmp_path / "out" / "comparison.html").is_file()


def test_errors(call, model_folder, tmp_path):
    code, _, err = call("experiment", "locality", f"retain={model_folder}", f"output={tmp_path}/out")
    assert code == 2 and "retain and data go together" in err
