"""Two processes localize, evaluate and attack as one does, and share the work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_cases import ATTACKS, EVALUATED, LOCALIZED, SETTINGS, attacked_model, corpus, model_of

import expunge
import zoo
from expunge.masks.mask import Mask
from expunge.results.attacked import load_attacked
from expunge.results.measures import Evaluation
from expunge.results.records import Records
from launched import complaint, run_ranks

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, one stage after another."""
    folder = tmp_path_factory.mktemp("ranks")
    for dtype in ("float32", "float64"):
        model_of(dtype).save_pretrained(folder / dtype)
        zoo.tokenizer().save_pretrained(folder / dtype)
    model_of("float32").save_pretrained(folder / "start")
    for split in ("forget", "retain"):
        rows = [{"question": e.prompt, "answer": e.completion} for e in corpus()[split]]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    done = run_ranks(str(Path(__file__).with_name("ranks_run.py")), str(folder), cache=folder / "cache")
    assert done.returncode == 0, complaint(done)
    (folder / "said").write_text(done.stdout)
    return folder


@pytest.fixture(autouse=True)
def _computed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients that are computed, not read from the cache that the two processes filled."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))


def alone(name: str) -> expunge.Scores:
    how = {key: value for key, value in LOCALIZED[name].items() if key != "sharded"}
    return expunge.localize(model_of(how.pop("dtype")), zoo.tokenizer(), corpus(), **how)


@pytest.mark.parametrize("name", LOCALIZED)
def test_two_processes_score_as_one(name: str, folder: Path) -> None:
    """In float64 the mask has the same bits; in float32, sums in another order move scores by 1e-5 of the largest."""
    mine = alone(name)
    theirs = [load_file(folder / f"{name} {rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(theirs[0][group], theirs[1][group]) for group in mine.values)
    largest = max(float(values.abs().max()) for values in mine.values.values())
    for group, values in mine.values.items():
        torch.testing.assert_close(theirs[0][group], values, rtol=1e-5, atol=1e-5 * largest)
    mask, other = mine.select(), expunge.Scores(mine.layout, theirs[0], mine.scope).select()
    if name == "in float32":
        assert mask.overlap(other).iou > 0.99
    else:
        assert all(torch.equal(mask.bits[group], other.bits[group]) for group in mask.bits)


def test_the_rows_of_a_localization_are_divided(folder: Path) -> None:
    def rows(name: str) -> list[int]:
        return [int((folder / f"{name} {rank} rows").read_text()) for rank in (0, 1)]

    assert rows("fisher") == [8, 7]  # of 15 forget rows, one at a time
    assert rows("wagle") == [8 + 6, 7 + 4]  # of 15 forget and 10 retain rows, two at a time
    assert rows("sharded") == [25, 25]  # each process holds a part of the weights, so that both are needed


def test_two_processes_evaluate_as_one(folder: Path, tmp_path: Path) -> None:
    mine = expunge.evaluate(model_of("float32"), zoo.tokenizer(), corpus(), **EVALUATED, output_dir=tmp_path / "mine")
    saved = Evaluation.load(folder / "evaluated" / "evaluation.json")
    assert saved.numbers() == mine.numbers()
    assert saved.samples == mine.samples
    assert Records.load(folder / "evaluated").table.equals(Records.load(tmp_path / "mine").table)
    for rank in (0, 1):
        numbers = json.loads((folder / f"numbers {rank}").read_text())
        assert numbers == json.loads(json.dumps(mine.numbers()))
        sharded = json.loads((folder / f"sharded {rank}").read_text())
        assert sharded["forget_probability"] == pytest.approx(mine["forget_probability"].value, rel=1e-5)
    assert not (folder / "evaluated" / "parts").exists()


def test_two_processes_attack_as_one(folder: Path) -> None:
    settings = {name: {k: str(folder / v) if k == "start" else v for k, v in own.items()} for name, own in SETTINGS}
    mine = expunge.attack(attacked_model(), zoo.tokenizer(), corpus(), attacks=ATTACKS, settings=settings)
    theirs = load_attacked(folder / "attacked")
    assert [column.name for column in theirs.columns] == [column.name for column in mine.columns]
    for ours, other in zip(mine.columns, theirs.columns, strict=True):
        assert ours.note == other.note and ours.leak is not None and other.leak is not None, ours.name
        assert ours.leak.facts == other.leak.facts and ours.leak.texts == other.leak.texts, ours.name
        np.testing.assert_allclose(other.leak.values, ours.leak.values, rtol=1e-5, atol=1e-6, err_msg=ours.name)
    leaks = [json.loads((folder / f"leaks {rank}").read_text()) for rank in (0, 1)]
    assert leaks[0] == leaks[1]
    assert (folder / "attacked" / "leak_map.png").is_file()


def test_commands_in_two_processes_write_and_speak_once(folder: Path, tmp_path: Path) -> None:
    said = (folder / "said").read_text()
    assert said.count("mask: mask.safetensors") == said.count("records and results: records") == 1
    assert said.count("result: pruned/attacked.json") == 1
    mask = Mask.load(folder / "mask.safetensors")
    assert mask.layout.unit == "neuron"
    assert Evaluation.load(folder / "records" / "evaluation.json").measures
    assert not list(folder.glob(".*.lock"))
