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
from expunge.experiments._learning_rates import next_rate
from expunge.experiments.real import FORGET, RETAIN, UTILITY, Real, distance, real
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


@pytest.mark.slow
def test_methods_are_taught_tuned_run_and_kept(common: dict[str, Any], tmp_path: Path) -> None:
    folder, arms = tmp_path / "out", ("npo", "ihl_lora")
    found = real(folder, **common, arms=arms, tries=2, seeds=2)
    assert {(row["arm"], row["seed"]) for row in found.rows} == {(arm, seed) for arm in arms for seed in (0, 1)}
    # A model of this size begins with 30 times the published rates, 1e-5 of all weights and 1e-4 of adapters.
    assert [(row["arm"], row["rate"]) for row in found.tuning][::2] == [("npo", 3e-4), ("ihl_lora", 3e-3)]
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
    # Another method joins; what is there is neither taught nor measured nor run again.
    kept = [folder / "start" / "model.safetensors", *folder.rglob("known-facts/*/evaluation.json")]
    written = [path.stat().st_mtime_ns for path in kept]
    again = real(folder, **common, arms=("npo", "grad_diff"), tries=2, seeds=1)
    assert len(kept) == 3 and [path.stat().st_mtime_ns for path in kept] == written
    assert again.rows[0] == found.rows[0] and [row["arm"] for row in again.rows][-1] == "grad_diff"
    # The taught models serve another experiment, here with a rate that is not searched.
    other = real(tmp_path / "other", **common, taught=folder, arms=("npo",), tries=1, seeds=1)
    assert other.levels == found.levels and not other.tuning and other.rows[0]["rate"] == 3e-4
    assert not (tmp_path / "other" / "start").exists()


def test_what_was_not_learned_is_not_unlearned(
    common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "KNOWN", 0.9)
    with pytest.raises(ExpungeError, match=r"the start model was taught too little: forget extraction strength 0\.\d+"):
        real(tmp_path / "out", **common, arms=("npo",), tries=1)


def test_mistakes_are_found_before_anything_is_written(common: dict[str, Any], tmp_path: Path) -> None:
    for wrong, message in (
        ({"arms": ("npoo",)}, "no unlearning method is called 'npoo'"),
        ({"settings": {"batch": 3}}, "batch"),
        ({"corpus": Corpus({"forget": zoo.corpus()["forget"]})}, "needs a retain set"),
    ):
        with pytest.raises(ExpungeError, match=message):
            real(tmp_path / "out", **{**common, **wrong})
    assert not (tmp_path / "out").exists()


def test_a_rate_is_sought_by_what_the_last_one_did() -> None:
    weak, strong = (0.4, False), (0.3, True)
    assert next_rate({}, 1e-4) == 1e-4
    assert next_rate({1e-4: weak}, 1e-4) == 3e-4
    assert next_rate({1e-4: strong}, 1e-4) == 3.3e-5
    # Between two: the geometric mean, sqrt(1e-4 * 3e-4) = 1.73e-4.
    assert next_rate({1e-4: weak, 3e-4: strong}, 1e-4) == 1.7e-4
    assert next_rate({1e-4: weak, 3e-4: strong, 1.7e-4: strong}, 1e-4) == 1.3e-4
    # A weak one above a strong one is noise; what is sought lies below the strong one.
    assert next_rate({1e-4: strong, 3e-4: weak}, 1e-4) == 3.3e-5
    assert next_rate({1e-4: weak, 3e-4: (-0.01, False)}, 1e-4) is None
    assert next_rate({1e-4: weak, 1.1e-4: strong}, 1e-4) is None  # 1.05e-4 is one of the two again


def test_distance_says_which_way_it_is_missed() -> None:
    start, retrained = {FORGET: 1.0, RETAIN: 0.96, UTILITY: 1.0}, {FORGET: 0.08, RETAIN: 0.95, UTILITY: 0.9}
    # Left of the forget set: 0.5 - 0.08 - 0.02.
    assert distance({FORGET: 0.5, RETAIN: 0.96}, start, retrained) == pytest.approx((0.40, False))
    # Lost: 0.95 - 0.48 / 0.96 = 0.45 of the retain set, more than 0.22 that is left.
    assert distance({FORGET: 0.3, RETAIN: 0.48}, start, retrained) == pytest.approx((0.45, True))
    # Of the utility that is left to the retain model: 0.95 - 0.72 / 0.9.
    assert distance({FORGET: 0.09, RETAIN: 0.96, UTILITY: 0.72}, start, retrained) == pytest.approx((0.15, True))
    # More forgotten than a model that never knew: 0.08 - 0.03 - 0.02.
    assert distance({FORGET: 0.03, RETAIN: 0.96}, start, retrained) == pytest.approx((0.03, True))
    assert distance({FORGET: 0.09, RETAIN: 0.95}, start, retrained)[0] <= 0


def row(arm: str, forget: float, retain: float, utility: float) -> dict[str, Any]:
    measures = {"forget_extraction_strength": forget, "retain_extraction_strength": retain, "utility": utility}
    return {"arm": arm, "seed": 0, "rate": 1e-5, "steps": 1, "seconds": 1.0, **measures}


def test_the_verdict_is_worked_by_hand(tmp_path: Path) -> None:
    start, retrained = (row("", *values) for values in ((1.0, 0.96, 1.0), (0.08, 0.95, 0.9)))
    levels = {
        what: {k: v for k, v in of.items() if k not in ("arm", "seed", "rate", "steps", "seconds")}
        for what, of in (("start model", start), ("retain model", retrained))
    }
    # 0.10 is 0.02 from 0.08; 0.92 / 0.96 = 0.958; more than 0.95 of the retain model's utility is kept.
    good, forgets_less = row("good", 0.099, 0.92, 0.95), row("less", 0.13, 0.96, 1.0)
    loses = row("loses", 0.08, 0.96, 0.72)
    assert "Reached by good." in Real(levels, [good, loses], [], tmp_path).text()
    # 0.13 - 0.08 - 0.02 = 0.03 is less than 0.95 - 0.72 / 0.9 = 0.15.
    assert "Nearest: less, 0.03 away." in Real(levels, [loses, forgets_less], [], tmp_path).text()
