"""Killed at any write, a verb goes on to the same bits, or says clearly that it cannot: never other results."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import DONE, FAILED, KILLED, forked, killed_at, kills, one_thread, quietly, writes

import expunge
import zoo

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {"epochs": 3, "batch_size": 3, "learning_rate": 1e-3}
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def unlearn(folder: Path, **how: Any) -> Any:
    settings = {"method": "npo", **SETTINGS, **how}
    return expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), output_dir=folder, **settings)


def finetune(folder: Path, **how: Any) -> Any:
    settings = {**SETTINGS, "epochs": 1, "checkpoint_every": 0.5, **how}
    return expunge.finetune(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), splits=("forget",), output_dir=folder, **settings
    )


def adapted(folder: Path, **how: Any) -> Any:
    return unlearn(folder, adapter="lora", rank=2, save="both", epochs=1, checkpoint_every=0.5, **how)


def surgery(folder: Path, **how: Any) -> Any:
    return unlearn(folder, method="grad_diff", surgery="gru", epochs=1, checkpoint_every=0.5, **how)


RESULT = ("model.safetensors", "adapter/adapter_model.safetensors", "history.csv")


def result(folder: Path) -> dict[str, str]:
    """Digests of what a run is for."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RESULT if (folder / name).exists()
    }


def finished(folder: Path) -> bool:
    return (folder / "manifest.json").is_file() and bool(expunge.Manifest.load(folder).results.get("finished"))


def tidy(place: Path) -> bool:
    """Is nothing left besides the finished run?"""
    inside = [path.name for path in (place / "run").rglob("*")]
    return [path.name for path in place.iterdir()] == ["run"] and not any(
        name.startswith(".") or "partial" in name for name in inside
    )


def gone_on(run: Run, folder: Path) -> str:
    """Do what a user does after a kill; how it went."""
    outcome = forked(quietly(lambda: run(folder, resume=True)))
    if outcome.code == FAILED and outcome.said.startswith("ExpungeError: nothing to resume"):
        outcome = forked(quietly(lambda: run(folder)))
        assert outcome.code == DONE, outcome.said
        return "begun anew"
    assert outcome.code == DONE, outcome.said
    return "resumed"


@pytest.mark.parametrize("run", [unlearn, finetune, adapted, surgery])
def test_killed_at_any_write_a_run_goes_on_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    expected = result(tmp_path / "whole")
    found: Counter[str] = Counter()
    for what, place in kills(tmp_path, lambda place: run(place / "run")):
        found[gone_on(run, place / "run")] += 1
        assert result(place / "run") == expected, what
        assert tidy(place), what
    assert set(found) == {"resumed", "begun anew"} and found.total() > 50
    print(f"{run.__name__}: {dict(found)}")


def test_killed_at_any_write_a_resumed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    run = surgery
    run(tmp_path / "whole")
    expected = result(tmp_path / "whole")
    for place in (tmp_path / "count", tmp_path / "once"):
        place.mkdir()
    points = writes(quietly(lambda: run(tmp_path / "count/run")), tmp_path / "count")
    whole = next(number for number, what in enumerate(points) if "complete.json" in what and what.startswith("rename"))
    middle = next(number for number in range(whole, len(points)) if points[number].startswith("append"))
    assert killed_at(middle, quietly(lambda: run(tmp_path / "once/run")), tmp_path / "once").code == KILLED
    found: Counter[str] = Counter()
    for what, place in kills(tmp_path, lambda place: run(place / "run", resume=True), before=tmp_path / "once"):
        found[gone_on(run, place / "run")] += 1
        assert result(place / "run") == expected, what
        assert tidy(place), what
    assert set(found) == {"resumed"} and found.total() > 50
    print(f"resumed {run.__name__}: {dict(found)}")


def test_killed_at_any_write_a_run_that_replaces_another_leaves_the_one_or_the_other(tmp_path: Path) -> None:
    def short(folder: Path, **how: Any) -> Any:
        return unlearn(folder, epochs=1, checkpoint_every=0, **how)

    short(tmp_path / "old/run", learning_rate=1e-4)
    short(tmp_path / "new")
    old, new = result(tmp_path / "old/run"), result(tmp_path / "new")
    found: Counter[str] = Counter()
    for what, place in kills(tmp_path, lambda place: short(place / "run", overwrite=True), before=tmp_path / "old"):
        there = result(place / "run") if finished(place / "run") else None
        assert there in (old, new, None), what
        found["old" if there == old else "new" if there == new else "unfinished"] += 1
        again = forked(quietly(lambda place=place: short(place / "run", overwrite=True)))
        assert again.code == DONE and result(place / "run") == new and tidy(place), (what, again.said)
    assert set(found) == {"old", "new", "unfinished"}
    print(f"replaced: {dict(found)}")
