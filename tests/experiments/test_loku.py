"""The experiment over ranks, on a random model: every arm runs, and table and drawing hold all of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.experiments._learning_rates import balance
from expunge.experiments.loku import ARMS, UTILITY, _measures, loku
from expunge.models.load import save_model


@pytest.mark.slow
def test_every_arm_at_every_rank(tmp_path: Path) -> None:
    start = save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")
    retain = save_model(zoo.tiny_model(seed=1), zoo.tokenizer(), tmp_path / "retain")
    forget = tuple(
        replace(e, paraphrased=f"It is {e.completion}", perturbed=("In a boat.", "In Rome."))
        for e in zoo.corpus()["forget"]
    )
    corpus = Corpus({"forget": forget, "retain": zoo.corpus()["retain"]}, "with variants")
    folder, common = tmp_path / "out", {"corpus": corpus, "model": start, "retain_model": retain}
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
    with pytest.raises(ExpungeError, match="Give both, or neither"):
        loku(tmp_path / "new", model=tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_usual_measures_that_the_data_cannot_give_are_left_out_with_a_reason(tmp_path: Path) -> None:
    start = save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")
    retain = save_model(zoo.tiny_model(seed=1), zoo.tokenizer(), tmp_path / "retain")
    told: list[tuple[str, int, int, str]] = []
    common = {"corpus": zoo.corpus(), "model": start, "retain_model": retain, "arms": ("npo",), "ranks": (2,)}
    common |= {"settings": {"batch_size": 3, "epochs": 0.5}}
    made = loku(tmp_path / "out", **common, seeds=2, progress=lambda *of: told.append(of))
    # Model utility is had of the parts that are there; forget quality needs paraphrased and wrong answers.
    assert made.measures == ("forget_extraction_strength", "retain_extraction_strength", "retain_probability", UTILITY)
    assert list(made.missing) == ["forget_quality"] and "no paraphrased_answer" in made.missing["forget_quality"]
    # One arm at one rank on two seeds; how long is an estimate.
    _, done, total, numbers = next(one for one in told if one[0] == "loku")
    assert (done, total) == (0, 2) and numbers.startswith("2 runs, about ") and numbers.endswith(" min")
    names, missing = _measures(None, zoo.corpus(), "tofu", retrained=False)
    assert tuple(names) == made.measures and "retain_model=<folder>" in missing["forget_quality"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ("forget_quality",)}, "forget_quality is not available"),
        ({"measures": ("forget_qualty",)}, "no measure of the suite 'tofu' is called 'forget_qualty'"),
        ({"ranks": (2, 1000)}, "rank=1000 is more than"),
        ({"grid": (1e-3,), "tuning_rank": 1000}, "rank=1000 is more than"),
        ({"arms": ("ihl_fila",), "epsilon": -1.0}, "epsilon must be above 0"),
        ({"settings": {"betta": 1}}, "betta"),
        ({"corpus": Corpus({"forget": zoo.corpus()["forget"]}, "half")}, "Name the retain set"),
    ],
)
def test_what_a_run_would_refuse_is_told_before_the_folder_is_opened(
    tmp_path: Path, changes: dict, message: str
) -> None:
    start = save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")
    common = {"corpus": zoo.corpus(), "model": start, "retain_model": start, "arms": ("npo",), "ranks": (2,)}
    with pytest.raises(ExpungeError, match=message):
        loku(tmp_path / "new", **common | changes)
    assert not (tmp_path / "new").exists()


def test_balance_by_hand() -> None:
    # 2 * 0.8 * 0.4 / (0.8 + 0.4) = 0.5333; a model that keeps nothing, or forgets nothing, has none.
    assert balance(0.2, 0.4) == pytest.approx(0.64 / 1.2)
    assert balance(0.0, 0.0) == balance(1.0, 1.0) == balance(1.0, 0.0) == 0.0 and balance(0.0, 1.0) == 1.0
    with pytest.raises(ExpungeError, match="between 0 and 1"):
        balance(-0.1, 0.5)
