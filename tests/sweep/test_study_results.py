"""What a study found: by recipe over seeds, in the constrained order, and the command that makes the best again."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from expunge.core.checks import ExpungeError
from expunge.results.studies import finished, is_study, models_of, runs_of
from expunge.sweep.places import publish, write_again, write_once
from expunge.sweep.results import load_studied

ASKED = {
    "format": 1,
    "id": "x",
    "command_line": True,
    "every": 1.0,
    "settings": {"model": "my-model", "forget": "forget.jsonl"},
    "search": {"learning_rate": ["1e-4", "1e-5"], "seed": ["0", "1"]},
    "constraints": [{"measure": "kept", "at_least": True, "limit": 0.9, "of_start": True}],
}
START = {
    "measures": {"known": 1.0, "kept": 1.0},
    "objectives": [{"measure": "known", "direction": "minimize", "target": 0.0}],
}


def add(folder: Path, number: int, rate: str, seed: str, path: list[tuple[float, float]], **changes: Any) -> None:
    """A trial whose candidates have these values of `known` and `kept`; the last one is taken to be the best."""
    candidates = [
        {"step": i + 1, "measures": {"known": None if math.isnan(known) else known, "kept": kept}}
        for i, (known, kept) in enumerate(path)
    ]
    point = {"learning_rate": rate, "seed": seed}
    told = {
        "number": number,
        "state": "finished",
        "why": "",
        "point": point,
        "settings": point,
        "standing": {"violation": max(0.0, 0.9 - path[-1][1]), "losses": [path[-1][0]]},
        "candidates": candidates,
        "measures": candidates[-1]["measures"],
        "step": len(path),
        "steps": len(path),
        "model": "run",
        "seconds": 1.0,
        **changes,
    }
    (folder / "trials" / f"{number:04}" / "run").mkdir(parents=True)
    (folder / "trials" / f"{number:04}" / "trial.json").write_text(json.dumps(told))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "asked.json").write_text(json.dumps(ASKED))
    (folder / "start.json").write_text(json.dumps(START))
    add(folder, 0, "1e-4", "0", [(0.5, 0.95), (0.1, 0.5)])
    add(folder, 1, "1e-4", "1", [(0.2, 0.9)])
    add(folder, 2, "1e-5", "0", [(0.9, 1.0), (0.6, 0.97)])
    add(folder, 3, "1e-5", "1", [(0.4, 0.96)], step=1, steps=5, model="run/checkpoints/checkpoint-1")
    failed = {"state": "failed", "why": "not finite", "standing": None, "candidates": [], "measures": {}}
    add(folder, 4, "1e-5", "2", [(1.0, 1.0)], **failed)
    return folder


def test_seeds_are_grouped_by_recipe(study: Path) -> None:
    found = load_studied(study)
    assert [[trial.number for trial in group.trials] for group in found.groups] == [[2, 3], [0, 1]]
    kept, broken = found.groups
    assert kept.point == {"learning_rate": "1e-5"} and kept.standing.feasible
    assert kept.over_seeds("known") == (pytest.approx(0.5), pytest.approx(math.sqrt(0.02)))  # of 0.6 and 0.4
    assert broken.standing.violation == pytest.approx(0.2)  # the mean of 0.4 and 0
    assert found.best is not None and found.best.number == 3
    assert [trial.number for trial in found.trials if trial.state == "failed"] == [4]


def test_the_front_is_over_candidates_of_all_trials(study: Path) -> None:
    assert [(trial.number, step) for trial, step, _ in load_studied(study).front] == [(1, 1)]


def test_the_table_shows_recipes_best_first(study: Path) -> None:
    header, rows, _ = load_studied(study).table()
    assert header == ("trials", "learning_rate", "known", "kept", "constraint")
    assert rows == [
        ("start", "-", "1", "1", "-"),
        ("2, 3", "1e-5", "0.5 ± 0.141", "0.965 ± 0.00707", "kept"),
        ("0, 1", "1e-4", "0.15 ± 0.0707", "0.7 ± 0.283", "broken by 0.2"),
    ]


def test_the_command_of_a_trial(study: Path) -> None:
    found = load_studied(study)
    first = "expunge unlearn model=my-model forget=forget.jsonl learning_rate=1e-5 seed="
    assert found.command(found.trials[2]) == f"{first}0 output=runs/study-best"
    assert found.command(found.trials[3]) == f"{first}1 checkpoint_every=1.0 keep_checkpoints=0 output=runs/study-best"
    (study / "asked.json").write_text(json.dumps({**ASKED, "command_line": False}))
    assert load_studied(study).command(found.trials[3]) is None


def test_a_mask_made_from_a_recipe_is_named_by_its_file(study: Path) -> None:
    mask = {"attribution": "wagle", "ratio": 0.1}
    add(study, 5, "1e-5", "3", [(0.4, 0.96)], settings={"mask": mask})
    found = load_studied(study)
    command = found.command(found.trials[5])
    assert command is not None and f"mask={study}/masks/" in command and ".safetensors" in command


def test_what_study_json_holds(study: Path) -> None:
    path = load_studied(study).save("me")
    told = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert told["format"] == 1 and told["objectives"] == ["minimize known"]
    assert told["constraints"] == ["kept >= 0.9 of start"]
    assert [one["number"] for one in told["trials"]] == [0, 1, 2, 3, 4]
    assert [(one["trials"], one["feasible"]) for one in told["recipes"]] == [([2, 3], True), ([0, 1], False)]
    assert told["recipes"][0]["mean"]["known"] == 0.5
    assert told["best"]["trial"] == 3 and told["best"]["model"].endswith("trials/0003/run/checkpoints/checkpoint-1")
    assert told["front"] == [{"trial": 1, "step": 1}]


def test_a_measure_without_a_value_never_wins(study: Path) -> None:
    add(study, 5, "1e-6", "0", [(math.nan, 1.0)], standing={"violation": 0.0, "losses": [1e12]})
    found = load_studied(study)
    assert [group.point["learning_rate"] for group in found.groups] == ["1e-5", "1e-6", "1e-4"]
    assert math.isnan(found.trials[5].measures["known"])
    assert json.loads(found.save("me").read_text())["recipes"][1]["mean"]["known"] is None


def test_what_is_drawn(study: Path) -> None:
    drawn = load_studied(study).drawn()
    assert drawn.trials[0] == {"learning_rate": 1e-4, "seed": 0.0}
    assert drawn.values == [0.1, 0.2, 0.6, 0.4] and drawn.feasible == [False, True, True, True]
    assert drawn.axes == ("known", "kept") and drawn.candidates[0] == (0.5, 0.95, True)
    assert [drawn.candidates[i] for i in drawn.front] == [(0.2, 0.9, True)]


def test_a_folder_of_a_study_stands_for_what_is_in_it(study: Path, tmp_path: Path) -> None:
    (study / "trials" / ".0009.worker").mkdir()
    assert [number for number, _ in finished(study)] == [0, 1, 2, 3, 4]
    assert runs_of(study)[3] == study / "trials/0003/run" and len(runs_of(study)) == 5
    assert models_of(study)[3] == study / "trials/0003/run/checkpoints/checkpoint-1"
    assert not is_study(tmp_path) and runs_of(tmp_path) == [tmp_path] == models_of(tmp_path)


def test_what_is_no_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"it holds no asked.json"):
        load_studied(tmp_path)
    (tmp_path / "asked.json").write_text(json.dumps({**ASKED, "format": 2}))
    with pytest.raises(ExpungeError, match="has the format 2; this version reads 1"):
        load_studied(tmp_path)
    (tmp_path / "asked.json").write_text(json.dumps(ASKED))
    with pytest.raises(ExpungeError, match="the start model is not measured yet"):
        load_studied(tmp_path)


def test_no_name_is_given_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert publish(tmp_path / "a", tmp_path / "0001") and not publish(tmp_path / "b", tmp_path / "0001")
    assert (tmp_path / "0001" / "file").read_text() == "a" and not (tmp_path / "b").exists()
    path = tmp_path / "new" / "asked.json"
    assert write_once(path, {"by": 1}, "one") and not write_once(path, {"by": 2}, "two")
    assert json.loads(path.read_text()) == {"by": 1}
    write_again(path, {"by": 2}, "two")
    assert json.loads(path.read_text()) == {"by": 2} and [*path.parent.iterdir()] == [path]
