"""Requests one after the other, and forget sets of growing size, on random models."""

import json
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import load_corpus
from expunge.experiments import _requests
from expunge.experiments._requests import Bench, parts
from expunge.experiments.scalability import scalability
from expunge.experiments.sustainability import sustainability
from expunge.models.load import save_model

MADE_UP = {"forget_rouge": 0.125}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = load_corpus("synthetic", authors=5, facts=2, forget_authors=2, holdout_authors=0)
    folder = save_model(zoo.tiny_model(max_position_embeddings=512), zoo.tokenizer(), tmp_path / "model")
    monkeypatch.setattr(_requests, "embedded", lambda *_, **__: (found, folder, folder))
    return found


def test_parts_hold_everything_once_and_in_order(corpus):
    cut = parts(corpus["retain"], 4)
    assert [e for part in cut for e in part] == list(corpus["retain"]) and {len(p) for p in cut} <= {1, 2}


@pytest.mark.slow
def test_each_request_goes_on_from_the_model_before(corpus, tmp_path, monkeypatch):
    seen, plain = [], Bench.unlearned
    monkeypatch.setattr(
        Bench, "unlearned", lambda s, m, forget, *a: (seen.append((m, list(forget))), plain(s, m, forget, *a))[1]
    )
    made = sustainability(tmp_path / "out", methods=("grad_diff",), requests=2, settings={"epochs": 1})
    assert seen[0][1] + seen[1][1] == list(corpus["forget"]) and seen[0][0] is seen[1][0]
    assert list(made.found["grad_diff"]) == [1, 2]
    stored = json.loads((tmp_path / "out/sustainability.json").read_text())
    assert stored["methods"]["grad_diff"]["2"] == made.found["grad_diff"][2] and made.start["model_utility"] is not None
    assert (tmp_path / "out/sustainability.png").stat().st_size > 5000
    # stopped before the second method: the first is taken from what was kept
    (tmp_path / "out/sustainability.json").unlink()
    again = sustainability(tmp_path / "out", methods=("grad_diff",), requests=2, settings={"epochs": 1})
    assert again == made and len(seen) == 2
    assert json.loads((tmp_path / "out/sustainability.json").read_text()) == stored


@pytest.mark.slow
def test_each_size_begins_at_the_start_model(corpus, tmp_path):
    made = scalability(tmp_path / "out", methods=("grad_diff",), requests=2, settings={"epochs": 1})
    assert list(made.found["grad_diff"]) == [2, 4]
    kept = json.loads((tmp_path / "out/measured.json").read_text())
    (tmp_path / "out/measured.json").write_text(json.dumps({"grad_diff": {"2": {**kept["grad_diff"]["2"], **MADE_UP}}}))
    again = scalability(tmp_path / "out", methods=("grad_diff",), requests=2, settings={"epochs": 1})
    assert again.found["grad_diff"][2]["forget_rouge"] == 0.125  # not measured again
    assert again.found["grad_diff"][4] == made.found["grad_diff"][4]
    with pytest.raises(ExpungeError, match="holds this experiment with other data or settings"):
        scalability(tmp_path / "out")
    with pytest.raises(ExpungeError, match="requests"):
        scalability(tmp_path / "new", requests=9)
