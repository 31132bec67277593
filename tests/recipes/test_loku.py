"""The experiment over ranks, on a random model: every arm runs, and table and drawing hold all of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.models.load import save_model
from expunge.recipes.loku import loku


def test_every_arm_at_every_rank(tmp_path: Path) -> None:
    start = save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")
    retain = save_model(zoo.tiny_model(seed=1), zoo.tokenizer(), tmp_path / "retain")
    forget = tuple(
        replace(e, paraphrased=f"It is {e.completion}", perturbed=("In a boat.", "In Rome."))
        for e in zoo.corpus()["forget"]
    )
    corpus = Corpus({"forget": forget, "retain": zoo.corpus()["retain"]}, "with variants")
    made = loku(
        tmp_path / "out",
        corpus=corpus,
        start=start,
        retain_model=retain,
        ranks=(2, 4),
        measures=("forget_probability", "retain_extraction_strength", "forget_quality"),
        settings={"batch_size": 3, "epochs": 1},
    )
    arms = ["grad_diff", "npo", "ihl", "ihl_fila"]
    assert [(row["arm"], row["rank"]) for row in made.rows] == [
        *((arm, rank) for arm in arms for rank in (2, 4)),
        ("ihl_full", None),
    ]
    stored = json.loads((tmp_path / "out/loku.json").read_text())
    assert stored["runs"] == list(made.rows) and set(stored["levels"]) == {"start model", "retain model"}
    assert all(row["forget_probability"] > 0 and 0 < row["forget_quality"] <= 1 for row in stored["runs"])
    assert stored["runs"][6]["importance_seconds"] >= 0 and stored["runs"][0]["trained_parameters"] == 2784
    assert (tmp_path / "out/loku.png").stat().st_size > 5000
    with pytest.raises(ExpungeError, match="is in use"):
        loku(tmp_path / "out")
    with pytest.raises(ExpungeError, match="no arm of the experiment is called 'ilh'"):
        loku(tmp_path / "new", arms=("ilh",))
    with pytest.raises(ExpungeError, match="give both, or neither"):
        loku(tmp_path / "new", start=start)
