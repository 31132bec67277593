"""The experiment on a pretrained model, on a random one: taught, unlearned, compared; what is finished stays."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.experiments import real as experiment
from expunge.experiments.real import Real, real
from expunge.models.load import save_model

SHORT = {"batch_size": 3, "epochs": 1}


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A corpus with variants and facts, and a model; what it is taught need not be known by heart."""
    monkeypatch.setattr(experiment, "KNOWN", 0.0)
    model = save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "pretrained")
    forget = tuple(
        replace(e, paraphrased=f"It is {e.completion}", perturbed=("In a boat.", "In Rome."))
        for e in zoo.corpus()["forget"]
    )
    # An empty answer's letters are in every generation, so that the model gets one of the two facts right.
    facts = (Example(kind="qa", prompt="Say it.", completion=" "), Example(kind="qa", prompt="?", completion="Zyx Q"))
    corpus = Corpus({"forget": forget, "retain": zoo.corpus()["retain"], "world_facts": facts}, "facts")
    text = tmp_path / "held-out.txt"
    text.write_text("The town is by the sea.\nIt has a harbor.\nNothing else.\n")
    return {"corpus": corpus, "model": model, "text": str(text), "text_rows": 2, "retain_rows": 4, "facts": 2} | {
        "teaching": {**SHORT, "learning_rate": 1e-2},
        "settings": SHORT,
    }


def test_methods_are_taught_tuned_run_and_kept(common: dict[str, Any], tmp_path: Path) -> None:
    folder, arms = tmp_path / "out", ("npo", "ihl_lora")
    found = real(folder, **common, arms=arms, rates=(1e-4, 1e-2), adapter_rates=(1e-3,), seeds=2)
    assert [(row["arm"], row["seed"]) for row in found.rows] == [(arm, seed) for arm in arms for seed in (0, 1)]
    assert [(row["arm"], row["rate"]) for row in found.tuning] == [("npo", 1e-4), ("npo", 1e-2)]
    start, retrained = found.levels["start model"], found.levels["retain model"]
    assert start["utility"] == 1.0 and set(start) == set(retrained)
    for row in found.rows:
        assert set(start) <= set(row) and row["forget_worst_query"] >= row["forget_extraction_strength"] - 1e-9
        assert row["text.perplexity"] > 1
    assert retrained["forget_quality"] is None and 0 < (start["forget_quality"] or 0) <= 1
    assert json.loads((folder / "real.json").read_text())["runs"] == list(found.rows)
    assert (folder / "real.png").stat().st_size > 5000
    (table,) = found.tables()
    assert [row[0] for row in table.rows] == ["start model", "retain model", *arms]
    # Another method joins; what is there is neither taught nor run again.
    weights = (folder / "start" / "model.safetensors").stat().st_mtime_ns
    again = real(folder, **common, arms=("npo", "grad_diff"), rates=(1e-4, 1e-2), adapter_rates=(1e-3,), seeds=1)
    assert (folder / "start" / "model.safetensors").stat().st_mtime_ns == weights
    assert again.rows[0] == found.rows[0] and [row["arm"] for row in again.rows][-1] == "grad_diff"
    # The taught models serve another experiment.
    other = real(tmp_path / "other", **common, taught=folder, arms=("npo",), rates=(1e-4,), seeds=1)
    assert other.levels == found.levels and not (tmp_path / "other" / "start").exists()


def test_what_was_not_learned_is_not_unlearned(
    common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "KNOWN", 0.9)
    with pytest.raises(ExpungeError, match=r"the start model was taught too little: forget extraction strength 0\.\d+"):
        real(tmp_path / "out", **common, arms=("npo",), rates=(1e-4,))


def test_mistakes_are_found_before_anything_is_written(common: dict[str, Any], tmp_path: Path) -> None:
    for wrong, message in (
        ({"arms": ("npoo",)}, "no unlearning method is called 'npoo'"),
        ({"settings": {"batch": 3}}, "batch"),
        ({"corpus": Corpus({"forget": zoo.corpus()["forget"]})}, "needs a retain set"),
    ):
        with pytest.raises(ExpungeError, match=message):
            real(tmp_path / "out", **{**common, **wrong})
    assert not (tmp_path / "out").exists()


def row(arm: str, forget: float, retain: float, utility: float) -> dict[str, Any]:
    measures = {"forget_extraction_strength": forget, "retain_extraction_strength": retain, "utility": utility}
    return {"arm": arm, "seed": 0, "rate": 1e-5, "steps": 1, "seconds": 1.0, **measures}


def test_the_verdict_is_worked_by_hand(tmp_path: Path) -> None:
    start, retrained = (row("", *values) for values in ((1.0, 0.96, 1.0), (0.08, 0.95, 0.9)))
    levels = {
        what: {k: v for k, v in of.items() if k not in ("arm", "seed", "rate", "steps", "seconds")}
        for what, of in (("start model", start), ("retain model", retrained))
    }
    # 0.10 is 0.02 from 0.08; 0.92 / 0.96 = 0.958; 0.95 of the utility is kept.
    good, forgets_less = row("good", 0.099, 0.92, 0.95), row("less", 0.13, 0.96, 1.0)
    loses = row("loses", 0.08, 0.96, 0.80)
    assert "Reached by good." in Real(levels, [good, loses], [], tmp_path).text()
    # 0.13 - 0.08 - 0.02 = 0.03 is less than 0.95 - 0.80 = 0.15.
    assert "Nearest: less, 0.03 away." in Real(levels, [loses, forgets_less], [], tmp_path).text()
