"""`expunge train`: which rows are learned."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stage was called with; it does nothing."""
    seen: dict[str, Any] = {}

    def finetune(model: Any, tokenizer: Any, corpus: Any, **settings: Any) -> Any:
        seen.update(settings, corpus=corpus)
        return SimpleNamespace(history=[], manifest=SimpleNamespace(results={}), folder="runs/x")

    monkeypatch.setattr("expunge.training.finetune.finetune", finetune)
    return seen


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> tuple[str, ...]:
    """The least that the verb needs, but for data."""
    return ("train", f"model={model_folder}", f"output={tmp_path}/run")


def test_data_is_short_for_retain(
    call: Callable[..., Any], words: tuple[str, ...], stage: dict[str, Any], data: Path
) -> None:
    assert call(*words, f"data={data}/retain.jsonl", "epochs=2", "seed=3").code == 0
    assert list(stage["corpus"]) == ["retain"] and len(stage["corpus"]["retain"]) == 10
    assert (stage["splits"], stage["epochs"], stage["seed"], stage["learning_rate"]) == (("retain",), 2.0, 3, None)


def test_several_sets(call: Callable[..., Any], words: tuple[str, ...], stage: dict[str, Any], data: Path) -> None:
    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl", "splits=forget,retain")
    assert call(*words, *sets).code == 0
    assert stage["splits"] == ("forget", "retain") and len(stage["corpus"]["forget"]) == 6


def test_both_at_once_is_refused(call: Callable[..., Any], words: tuple[str, ...], data: Path) -> None:
    code, _, err = call(*words, f"data={data}/retain.jsonl", f"forget={data}/forget.jsonl")
    assert code == 2 and "data stands for retain=... alone" in err


def test_no_data_at_all(call: Callable[..., Any], words: tuple[str, ...], stage: dict[str, Any]) -> None:
    code, _, err = call(*words)
    assert code == 2 and err.startswith("error: no data")


def test_a_split_that_is_not_there(call: Callable[..., Any], words: tuple[str, ...], data: Path) -> None:
    code, out, _ = call(*words, f"data={data}/retain.jsonl", "splits=retian", "--dry-run")
    assert code == 2  # with data=, other splits cannot be meant
    code, out, _ = call(*words, f"retain={data}/retain.jsonl", "splits=retian", "--dry-run")
    assert code == 1 and "reads the set retian" in out


def test_a_dry_run_shows_the_defaults_of_fine_tuning(
    call: Callable[..., Any], words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    code, out, _ = call(*words, f"data={data}/retain.jsonl", "batch_size=4", "--dry-run")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
    assert code == 0 and not (tmp_path / "run").exists()
    assert rows["learning_rate"] == "0.0003 default of fine-tuning" and rows["epochs"] == "5.0 default of fine-tuning"
    # 5 epochs of 10 rows are 50 rows, in steps of 4 that is 13.
    assert "5 epochs of 10 rows in steps of 4: 13 steps, 4 rows at once, 1 time a step" in out
    assert "First retain row" in out
