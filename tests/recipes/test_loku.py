"""The experiment over ranks, on a random model: every arm runs, and table and drawing hold all of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.models.load import save_model
from expunge.recipes._rates import balance
from expunge.recipes.loku import ARMS, loku


def test_every_arm_at_every_rank(tmp_path: Path) -> None:
    start = save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")
    retain = save_model(zoo.tiny_model(seed=1), zoo.tokenizer(), tmp_path / "retain")
    forget = tuple(
        replace(e, paraphrased=f"It is {e.completion}", perturbed=("In a boat.", "In Rome."))
        for e in zoo.corpus()["forget"]
    )
    corpus = Corpus({"forget": forget, "retain": zoo.corpus()["retain"]}, "with variants")
    folder, common = tmp_path / "out", {"corpus": corpus, "start": start, "retain_model": retain}
    common |= {"measures": ("forget_probability", "retain_extraction_strength", "forget_quality")}
    common |= {"settings": {"batch_size": 3, "epochs": 0.5}, "ranks": (2, 4), "grid": (1e-4, 1e-2), "tuning_rank": 2}
    arms = ("npo", "ihl_fila", "ihl_full")
    made = loku(folder, **common, arms=arms)
    assert [(row["arm"], row["rank"]) for row in made.rows] == [
        *((arm, rank) for arm in ("npo", "ihl_fila") for rank in (2, 4)),
        ("ihl_full", None),
    ]
    # Every arm had both rates of the grid, on a seed of its own, and goes on with the one of the better score.
    assert sorted((row["arm"], row["rate"]) for row in made.tuning) == sorted(
        (arm, rate) for arm in arms for rate in (1e-4, 1e-2)
    )
    assert {row["seed"] for row in made.tuning} == {1000} and {row["rank"] for row in made.tuning} == {2, None}
    for line in made.lines:
        scores = {row["rate"]: row["score"] for row in made.tuning if row["arm"] == line.arm}
        assert scores[line.rate] == max(scores.values()) and line.deviations["forget_probability"] is None
    stored = json.loads((folder / "loku.json").read_text())
    assert stored["runs"] == list(made.rows) and set(stored["levels"]) == {"start model", "retain model"}
    assert all(row["forget_probability"] > 0 and 0 < row["forget_quality"] <= 1 for row in stored["runs"])
    assert stored["runs"][2]["importance_seconds"] >= 0 and stored["runs"][0]["trained_parameters"] == 2784
    assert (folder / "loku.png").stat().st_size > 5000
    # A second seed adds its own runs and leaves the first ones as they are.
    few = common | {"arms": ("npo", "ihl_full"), "ranks": (4,)}
    more = loku(folder, **few, seeds=2)
    assert [(row["arm"], row["seed"]) for row in more.rows] == [
        ("npo", 0),
        ("ihl_full", 0),
        ("npo", 1),
        ("ihl_full", 1),
    ]
    assert json.loads((folder / "loku.json").read_text())["runs"][: len(made.rows)] == list(made.rows)
    values = [row["forget_probability"] for row in more.rows if row["arm"] == "npo"]
    assert more.lines[0].means["forget_probability"] == pytest.approx(sum(values) / 2)
    assert more.lines[0].deviations["forget_probability"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    with pytest.raises(ExpungeError, match="holds this experiment with other data or settings"):
        loku(folder)
    # Without a grid, the arms that are left, at rates that are given or known.
    others = {**common, "grid": (), "arms": [arm for arm in ARMS if arm not in arms], "ranks": (2,)}
    made = loku(tmp_path / "others", **others, rates={"ihl": 5e-3})
    assert {line.arm: line.rate for line in made.lines} == {
        "grad_diff": 1e-4,
        "ihl": 5e-3,
        "grad_diff_full": 1e-5,
        "npo_full": 1e-5,
    }
    assert not made.tuning


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="no arm of the experiment is called 'ilh'"):
        loku(tmp_path / "new", arms=("ilh",))
    with pytest.raises(ExpungeError, match="no arm of the experiment is called 'ilh'"):
        loku(tmp_path / "new", rates={"ilh": 1e-3})
    with pytest.raises(ExpungeError, match="one of the two"):
        loku(tmp_path / "new", rates={"ihl": 1e-3}, grid=(1e-3,))
    with pytest.raises(ExpungeError, match="each arm has a learning rate of its own"):
        loku(tmp_path / "new", settings={"learning_rate": 1e-3})
    with pytest.raises(ExpungeError, match="give both, or neither"):
        loku(tmp_path / "new", start=tmp_path)
    assert not (tmp_path / "new").exists()


def test_balance_by_hand() -> None:
    # 2 * 0.8 * 0.4 / (0.8 + 0.4) = 0.5333; a model that keeps nothing, or forgets nothing, has none.
    assert balance(0.2, 0.4) == pytest.approx(0.64 / 1.2)
    assert balance(0.0, 0.0) == balance(1.0, 1.0) == balance(1.0, 0.0) == 0.0 and balance(0.0, 1.0) == 1.0
    with pytest.raises(ExpungeError, match="between 0 and 1"):
        balance(-0.1, 0.5)
