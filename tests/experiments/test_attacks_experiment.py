"""The experiment on attacks, on random models: every method is attacked next to the control; what is done stays."""

import json
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.experiments.attacks import RETAIN, Attacks, attacks
from expunge.models.load import save_model
from expunge.results.attacked import load_attacked


@pytest.fixture
def common(tmp_path: Path) -> dict[str, Any]:
    return {
        "corpus": zoo.corpus(),
        "model": save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start"),
        "retain_model": save_model(zoo.tiny_model(seed=1), zoo.tokenizer(), tmp_path / "retain"),
        "attacks": ("quantize",),
        "attack_settings": {"quantize": {"forms": ("int8",)}},
    }


@pytest.mark.slow
def test_methods_are_attacked_next_to_the_control_and_kept(common: dict[str, Any], tmp_path: Path) -> None:
    folder, settings = tmp_path / "out", {"epochs": 1, "batch_size": 3, "npo": {"learning_rate": 1e-3}}
    found = attacks(folder, **common, methods=("npo",), settings=settings, seeds=2)
    assert [(row["method"], row["seed"]) for row in found.rows] == [("npo", 0), ("npo", 1)]
    assert found.rows[0]["settings"]["learning_rate"] == 1e-3 and found.columns == ("plain", "quantize.int8")
    stored = load_attacked(folder / "attacked" / "npo-0")
    assert stored.control == "retain model"
    values, controls = stored["plain"].leak, stored["plain"].control
    assert values and found.rows[0]["values"]["plain"] == pytest.approx(sum(values.values) / 6)
    assert controls and found.rows[0]["controls"]["plain"] == pytest.approx(sum(controls.values) / 6)
    assert found.rows[0]["leaking"] == len(stored.leaking) / 6
    (table,) = found.tables()
    assert table.header == ("attack", "retain model", "npo")
    assert [row[0] for row in table.rows][-2:] == ["facts leaking somewhere", "retain extraction strength"]
    assert (folder / "attacks.png").stat().st_size > 5000
    # Only what all runs have is compared.
    assert Attacks([found.rows[0], {**found.rows[1], "values": {"plain": 0.1}}], 1.0, folder).columns == ("plain",)
    # Another method joins, and what is there is not run again; with other settings it is.
    written = (folder / "attacked" / "npo-0" / "attacked.json").stat().st_mtime_ns
    more = attacks(folder, **common, methods=("npo", "grad_diff"), settings=settings)
    assert [row["method"] for row in more.rows] == ["npo", "grad_diff"]
    assert (folder / "attacked" / "npo-0" / "attacked.json").stat().st_mtime_ns == written
    settings |= {"npo": {"learning_rate": 1e-4}}
    attacks(folder, **common, methods=("npo",), settings=settings)
    assert (folder / "attacked" / "npo-0" / "attacked.json").stat().st_mtime_ns > written
    rows = json.loads((folder / "attacks.json").read_text())["runs"]
    assert sorted((row["method"], row["seed"]) for row in rows) == [("grad_diff", 0), ("npo", 0), ("npo", 1)]


def test_the_verdict_is_worked_by_hand(tmp_path: Path) -> None:
    def row(method: str, seed: int, plain: float, relearned: float, kept: float) -> dict[str, Any]:
        controls = {"plain": 0.05, "relearn.forget": 0.1}
        values = {"plain": plain, "relearn.forget": relearned}
        return {"method": method, "seed": seed, "values": values, "controls": controls, RETAIN: kept, "leaking": 0.5}

    rows = [row("good", 0, 0.05, 0.15, 0.9), row("good", 1, 0.05, 0.23, 0.92)]
    rows += [row("shallow", 0, 0.04, 0.6, 1.0), row("ruined", 0, 0.0, 0.0, 0.5)]
    found = Attacks(rows, 1.0, tmp_path)
    assert found.above("good") == pytest.approx({"plain": 0.0, "relearn.forget": 0.09})
    text = found.text()
    assert "good withstands: at most 0.09 above the retain model (relearn.forget), 0.91 of the retain set" in text
    assert "shallow does not withstand: at most 0.5 above" in text
    assert "ruined does not withstand" in text
    # Attacks that were not run on all are no ground to compare them.
    further = {**row("more", 0, 0.0, 0.0, 1.0), "values": {"plain": 0.0, "sampling.best_of_4": 0.9}}
    assert Attacks([further, *rows], 1.0, tmp_path).columns == ("plain",)
    assert "more withstands: at most -0.05 above" in Attacks([further, *rows], 1.0, tmp_path).text()


def test_mistakes_are_found_before_anything_is_written(common: dict[str, Any], tmp_path: Path) -> None:
    for wrong, message in (
        ({"methods": ("npoo",)}, "no unlearning method is called 'npoo'"),
        ({"attacks": ("quantise",), "attack_settings": {}}, "no attack is called 'quantise'"),
        ({"attack_settings": {"quantize": {"bits": 4}}}, "no setting of quantize is called 'bits'"),
        ({"settings": {"npo": {"batch": 3}}, "methods": ("npo",)}, "batch"),
        ({"retain_model": None}, "the attacks need a control"),
        ({"corpus": Corpus({"forget": zoo.corpus()["forget"]})}, "needs a retain set"),
        ({"model": None}, "go together"),
    ):
        with pytest.raises(ExpungeError, match=message):
            attacks(tmp_path / "out", **{**common, **wrong})
    assert not (tmp_path / "out").exists()
