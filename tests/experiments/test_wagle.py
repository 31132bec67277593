"""The experiment over ways to choose weights: its cells, what is averaged, and going on where it stopped."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.experiments.wagle import COLUMNS, Cell, averaged, cells, columns, wagle
from expunge.models.load import save_model
from expunge.results.measures import Evaluation, Measure


def test_masks_come_at_every_ratio_and_the_others_once() -> None:
    found = [str(cell) for cell in cells(("npo", "idk"), ("dense", "random", "lora"), (0.5, 0.9))]
    one = ["dense", "random 0.5", "random 0.9", "lora"]
    assert found == [f"npo {arm}" for arm in one] + [f"idk {arm}" for arm in one]
    # The whole table of the issue: 3 methods x (2 without and 4 with a mask at 2 ratios).
    assert (
        len(cells(("grad_diff", "npo", "idk"), ("dense", "random", "magnitude", "wanda", "lora", "wagle"), (0.5, 0.9)))
        == 30
    )
    for given, message in (
        ((("nppo",), ("dense",), (0.5,)), "no method of the experiment is called 'nppo'"),
        ((("npo",), ("dens",), (0.5,)), "no arm of the experiment is called 'dens'"),
        ((("npo",), ("random",), (1.5,)), "ratios must"),
    ):
        with pytest.raises(ExpungeError, match=message):
            cells(*given)


def test_columns_turn_what_should_be_low() -> None:
    values = {
        "UE": 0.5,
        "UE_forget_quality": 0.1,
        "UE_mia": 0.2,
        "UE_forget_accuracy": 0.3,
        "UE_rouge": 0.4,
        "UT": None,
    }
    values |= {f"UT_{s}_{m}": 0.6 for s in ("real_authors", "world_facts") for m in ("accuracy", "rouge")}
    values |= {"UT_retain_rouge": None}
    made = {
        name: Measure(
            value=value, n=3, better="higher", definition=name, source="made up", note="" if value else "not had"
        )
        for name, value in values.items()
    }
    found = columns(Evaluation(made))
    assert tuple(found) == COLUMNS and found["1-FA"] == 0.7 and found["1-RL"] == 0.6 and found["FQ"] == 0.1
    assert found["UT"] is found["retain acc"] is found["retain RL"] is None and found["facts acc"] == 0.6
    made["UT"] = replace(made["UT"], value=0.9, details={"retain_accuracy": 0.8})
    assert columns(Evaluation(made))["retain acc"] == 0.8


def test_seeds_are_averaged_by_hand() -> None:
    rows = [
        dict.fromkeys(COLUMNS, value) | {"rate": 1e-3, "UT": None if value == 1.0 else value}
        for value in (1.0, 2.0, 6.0)
    ]
    line = averaged(Cell("npo", "wagle", 0.8), rows)
    # Mean (1 + 2 + 6) / 3 = 3; squares of 2, 1, 3 sum to 14; sqrt(14 / 2).
    assert line.means["FQ"] == 3.0 and math.isclose(line.deviations["FQ"] or 0, math.sqrt(7)) and line.seeds == 3
    assert line.means["UT"] is None and line.deviations["UT"] is None
    assert averaged(Cell("npo", "dense", None), rows[1:2]).deviations["FQ"] is None


@pytest.mark.slow
def test_cells_run_and_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    start = save_model(zoo.tiny_model(max_position_embeddings=512), zoo.tokenizer(), tmp_path / "start")
    examples = {
        split: tuple(
            replace(
                e,
                paraphrased_prompt=f"Tell: {e.prompt}",
                paraphrased=f"It is {e.completion}",
                perturbed=("In a boat.", "In Rome."),
            )
            for e in zoo.corpus()[split]
        )
        for split in ("forget", "retain")
    }
    corpus = Corpus({**examples, "world_facts": examples["retain"][:3]}, "with variants")
    given = {"corpus": corpus, "model": start, "settings": {"batch_size": 3, "epochs": 1.0, "rank": 2}}
    told: list[tuple[int, int, str]] = []

    def progress(what: str, done: int, total: int, numbers: str) -> None:
        if what == "wagle":
            told.append((done, total, numbers))

    made = wagle(
        tmp_path / "out", methods=("npo",), arms=("dense", "random", "lora"), ratios=(0.3,), progress=progress, **given
    )
    assert [str(line.cell) for line in made.lines[1:]] == ["npo dense", "npo random 0.3", "npo lora"]
    assert made.lines[0].cell is None and all(0 <= line.means["FQ"] <= 1 for line in made.lines)
    assert told[0][1] == 3 and told[0][2].startswith("3 runs, about 1 min")
    assert {"authors acc", "authors RL", "retain acc", "UT"} <= set(made.missing) and all(made.missing.values())
    assert {name for name, value in made.lines[1].means.items() if value is None} == set(made.missing)
    store = tmp_path / "out/wagle.json"
    first = json.loads(store.read_text())["runs"]
    assert [(row["cell"], row["seed"]) for row in first] == [
        ("npo dense", 0),
        ("npo random 0.3", 0),
        ("npo lora", 0),
    ]
    told.clear()
    more = wagle(tmp_path / "out", methods=("idk", "npo"), arms=("dense",), seeds=1, progress=progress, **given)
    assert told[0][1] == 1 and [row["cell"] for row in json.loads(store.read_text())["runs"]][3:] == ["idk dense"]
    assert json.loads(store.read_text())["runs"][:3] == first and len(more.lines) == 3
    with pytest.raises(ExpungeError, match="with other data or settings"):
        wagle(tmp_path / "out", **(given | {"settings": {"batch_size": 2}}))
    with pytest.raises(ExpungeError, match="Give both, or neither"):
        wagle(tmp_path / "new", model=start)
    with pytest.raises(ExpungeError, match="give one of the two"):
        wagle(tmp_path / "new", grid=(1e-3,), settings={"learning_rate": 1e-3})
    # With a grid, each cell has both rates, on a seed of its own, and goes on with the one of the better balance.
    tuned = wagle(
        tmp_path / "tuned", methods=("npo",), arms=("dense", "random"), ratios=(0.3,), grid=(1e-4, 1e-2), **given
    )
    content = json.loads((tmp_path / "tuned/wagle.json").read_text())
    for line in tuned.lines[1:]:
        scores = {row["rate"]: row["score"] for row in content["tuning"] if row["arm"] == str(line.cell)}
        assert set(scores) == {1e-4, 1e-2} and scores[line.rate or 0] == max(scores.values())
        assert {row["rate"] for row in content["runs"] if row["cell"] == str(line.cell)} == {line.rate}
    assert tuned.lines[0].rate is None and len(content["runs"]) == 2
