"""Killed at any write, a verb goes on to the same bits, or says clearly that it cannot: never other results."""

import hashlib
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import DONE, FAILED, KILLED, forked, killed_at, one_thread, writes

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
    return expunge.finetune(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), splits=("forget",), output_dir=folder, **SETTINGS, **how
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


def quietly(work: Callable[[], Any]) -> Callable[[], None]:
    def quiet() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()

    return quiet


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
def test_killed_at_any_write_a_run_goes_on_to_the_same_bits(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    run(tmp_path / "whole")
    expected = result(tmp_path / "whole")
    (tmp_path / "count").mkdir()
    points = writes(quietly(lambda: run(tmp_path / "count/run")), tmp_path / "count")
    assert len(points) > 50 and result(tmp_path / "count/run") == expected
    found: Counter[str] = Counter()
    for number, what in enumerate(points):
        place = tmp_path / "kill"
        place.mkdir()
        killed = killed_at(number, quietly(lambda place=place: run(place / "run")), place)
        assert killed.code == KILLED, (what, killed.said)
        found[gone_on(run, place / "run")] += 1
        assert result(place / "run") == expected, what
        assert [path.name for path in place.iterdir()] == ["run"], what
        left = [path.name for path in (place / "run").rglob("*") if "partial" in path.name or path.name[0] == "."]
        assert not left, (what, left)
        shutil.rmtree(place)
    assert set(found) == {"resumed", "begun anew"}
    record_property("kills", f"{run.__name__}: {len(points)} points, {dict(found)}")
    print(f"{run.__name__}: {len(points)} points, {dict(found)}")
