"""Killed at any write, a verb goes on to the same bits, or says clearly that it cannot: never other results."""

import hashlib
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import DONE, FAILED, KILLED, forked, killed_at, one_thread, writes

import expunge
import zoo
from expunge.cli import main
from expunge.core.whole import is_left_over
from expunge.masks.mask import Mask
from expunge.models.load import save_model

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


def kills(base: Path, work: Callable[[Path], Any], before: Path | None = None) -> Iterator[tuple[str, Path]]:
    """For each write of some work, what it is and the folder in which the work was killed there; gone afterwards.

    Args:
        base: folder that these folders are made in, one at a time.
        work: writes into the folder that it is given.
        before: becomes `run` in that folder before the work begins.
    """

    def prepared(name: str) -> Path:
        place = base / name
        place.mkdir()
        if before is not None:
            shutil.copytree(before, place / "run")
        return place

    place = prepared("all")
    for number, what in enumerate(writes(quietly(lambda: work(place)), place)):
        killed = prepared("kill")
        outcome = killed_at(number, quietly(partial(work, killed)), killed)
        assert outcome.code == KILLED, (what, outcome.said)
        yield what, killed
        shutil.rmtree(killed)


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
    for what, place in kills(tmp_path, lambda place: run(place / "run", resume=True), before=tmp_path / "once/run"):
        found[gone_on(run, place / "run")] += 1
        assert result(place / "run") == expected, what
        assert tidy(place), what
    assert set(found) == {"resumed"} and found.total() > 50
    print(f"resumed {run.__name__}: {dict(found)}")


def test_killed_at_any_write_a_run_that_replaces_another_leaves_the_one_or_the_other(tmp_path: Path) -> None:
    def short(folder: Path, **how: Any) -> Any:
        return unlearn(folder, epochs=1, checkpoint_every=0, **how)

    short(tmp_path / "old", learning_rate=1e-4)
    short(tmp_path / "new")
    old, new = result(tmp_path / "old"), result(tmp_path / "new")
    found: Counter[str] = Counter()
    for what, place in kills(tmp_path, lambda place: short(place / "run", overwrite=True), before=tmp_path / "old"):
        there = result(place / "run") if finished(place / "run") else None
        assert there in (old, new, None), what
        found["old" if there == old else "new" if there == new else "unfinished"] += 1
        again = forked(quietly(lambda place=place: short(place / "run", overwrite=True)))
        assert again.code == DONE and result(place / "run") == new and tidy(place), (what, again.said)
    assert set(found) == {"old", "new", "unfinished"}
    print(f"replaced: {dict(found)}")


def test_killed_at_any_write_a_mask_is_whole_or_not_there(tmp_path: Path) -> None:
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "model")
    for split in ("forget", "retain"):
        lines = [json.dumps({"question": row.prompt, "answer": row.completion}) for row in zoo.corpus()[split]]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")

    def localize(folder: Path, *flags: str) -> None:
        words = [f"model={tmp_path / 'model'}"]
        words += [f"{split}={tmp_path / split}.jsonl" for split in ("forget", "retain")]
        words += [f"output={folder / 'mask.safetensors'}", f"scores={folder / 'scores.safetensors'}"]
        with pytest.raises(SystemExit) as ended:
            main(["localize", *words, "attribution=magnitude", "unit=weight", *flags])
        assert ended.value.code == 0

    (tmp_path / "whole").mkdir()
    localize(tmp_path / "whole")
    expected = Mask.load(tmp_path / "whole/mask.safetensors").bits
    found: Counter[str] = Counter()
    for what, place in kills(tmp_path, localize):
        mask = place / "mask.safetensors"
        found["whole" if mask.exists() else "not there"] += 1
        again = forked(quietly(lambda place=place: localize(place, "--overwrite")))
        assert again.code == DONE, (what, again.said)
        bits = Mask.load(mask).bits
        assert bits.keys() == expected.keys() and all(torch.equal(bits[name], expected[name]) for name in bits), what
        assert {path.name for path in place.iterdir() if not is_left_over(path)} == {mask.name, "scores.safetensors"}
    assert set(found) == {"whole", "not there"}
    print(f"localize: {dict(found)}")
