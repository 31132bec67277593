"""A request for erasure that is killed goes on by the same call, and ends with the same model, choice and verdict."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kills import DONE, KILLED, forked, killed_at, one_thread, quietly, writes
from safetensors.torch import load_file

import expunge
import zoo
from expunge.data.corpus import load_corpus
from expunge.erase import tuning
from expunge.erase.erase import erase
from expunge.erase.request import Request
from expunge.erase.trials import PROBABILITY
from expunge.models.load import save_model
from expunge.record.policy import Policy
from expunge.results.attacked import load_attacked
from expunge.results.measures import Evaluation

pytestmark = pytest.mark.slow
EVENLY = 12
"""Writes that are killed, evenly spaced over all, besides those that decide which model is kept."""
DECIDES = ("rename candidates/wga", "rename candidates/npo", "rename .trials", "rename model")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def request_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A request on a random model, in the folder that it is given."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(("start", "control")):
        model = zoo.tiny_model(seed=seed, num_hidden_layers=1, brief=True)
        save_model(model, zoo.tokenizer(), tmp_path / name)
    settings = Request.settings
    few = {"epochs": 1, "batch_size": 3}
    monkeypatch.setattr(Request, "settings", lambda self, name: {**settings(self, name), **few})
    # No trial reaches the target, so that every candidate is tried and attacked.
    monkeypatch.setattr(tuning, "distance", lambda row, *_: 1 + row[PROBABILITY])
    for split, examples in zoo.corpus(3, 4).splits.items():
        rows = [json.dumps({"question": row.prompt, "answer": row.completion}) for row in examples]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    policy = Policy(
        name="test",
        attacks=("quantize",),
        settings={"quantize": {"forms": ["int8"]}},
        least_known=0.0,
        least_utility=0.0,
    )

    def work(place: Path) -> None:
        corpus = load_corpus("files", forget=str(tmp_path / "forget.jsonl"), retain=str(tmp_path / "retain.jsonl"))
        how: dict[str, Any] = {"candidates": ("wga", "npo"), "tries": 1, "attacks": ("quantize",), "policy": policy}
        erase(tmp_path / "start", corpus, place, control=tmp_path / "control", **how)

    return work


def result(place: Path) -> dict[str, Any]:
    """What a request left, without times, dates and salts."""
    log = json.loads((place / "trials.json").read_text())
    trials = [{name: value for name, value in row.items() if name != "seconds"} for row in log["tuning"]]
    weights = load_file(place / "model/model.safetensors")
    evaluations = {
        name: Evaluation.load(place / name / "evaluation.json").numbers()
        for name in ("start-records", "control-records", "model-records")
    }
    attacks = [(c.name, c.leak, c.control) for c in load_attacked(place / "model-records").columns]
    verified = expunge.verify(place / "model")
    assert verified.holds and (place / "report.html").stat().st_size > 5000
    verdict = json.loads((place / "model/erasure.json").read_text())["predicate"]["verdict"]
    files = {str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()}
    return {
        "trials": trials,
        "levels": log["levels"],
        "chosen": log["runs"],
        "weights": {name: tensor.tolist() for name, tensor in sorted(weights.items())},
        "evaluations": evaluations,
        "attacks": attacks,
        "verdict": verdict,
        "files": {file for file in files if not Path(file).name.startswith(".")},
    }


def test_killed_at_its_writes_it_goes_on_to_the_same_result(request_in: Callable[[Path], None], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    points = writes(quietly(partial(request_in, whole)), whole)
    known = result(whole)
    assert len(known["trials"]) == 2, "more than one trial, so that a choice is made"
    evenly = range(0, len(points), max(1, len(points) // EVENLY))
    deciding = [
        number
        for number, point in enumerate(points)
        if point.startswith(DECIDES) and "/checkpoint" not in point and "partial" not in point
    ]
    deciding += [number for number, point in enumerate(points) if "leak_map.png" in point]
    assert deciding
    print(f"{len({*evenly, *deciding})} of {len(points)} writes:", *(points[n] for n in deciding), sep="\n")
    for number in sorted({*evenly, *deciding}):
        place = tmp_path / "killed"
        assert killed_at(number, quietly(partial(request_in, place)), place).code == KILLED, points[number]
        again = forked(quietly(partial(request_in, place)))
        assert again.code == DONE, (points[number], again.said)
        found = result(place)
        assert found == known, (points[number], [name for name in known if known[name] != found[name]])
        shutil.rmtree(place)
