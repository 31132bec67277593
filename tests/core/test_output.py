"""Output that is there already: what may be replaced or resumed, and the one message."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.core.output import check_output, check_output_file, check_shared
from expunge.core.tensor_file import save_tensors


def test_a_missing_or_empty_folder_is_free(tmp_path: Path) -> None:
    assert not check_output(tmp_path, overwrite=False, names=())
    assert not check_output(tmp_path / "missing", overwrite=False, resume=False, names=["*"])


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        (None, "Choose another output, or replace it (overwrite=True)."),
        (False, "Choose another output, go on with what is there (resume=True), or replace it (overwrite=True)"),
    ],
)
def test_a_folder_in_use(tmp_path: Path, resume: bool | None, message: str) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExpungeError) as error:
        check_output(tmp_path, overwrite=False, resume=resume, names=["*"])
    assert f"the output folder {tmp_path} is in use. {message}" in str(error.value)
    assert check_output(tmp_path, overwrite=True, resume=resume, names=["*"])
    assert check_output(tmp_path, overwrite=False, resume=True, names=["*"])


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExpungeError, match="must be a folder, and is a file"):
        check_output(tmp_path / "file", overwrite=False, names=["*"])


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"nothing to resume: .* Start without resume=True"):
        check_output(tmp_path, overwrite=False, resume=True, names=["*"])


@pytest.mark.parametrize("content", [None, "[]", '{"stage": "train"}'])
def test_overwrite_replaces_its_own_stages_only(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ExpungeError, match="replaces earlier output of train or unlearn only"):
        check_output(tmp_path, overwrite=True, stages=("train", "unlearn"), names=["*"])
    Manifest(stage="unlearn", arguments={}).save(tmp_path)
    assert check_output(tmp_path, overwrite=True, stages=("train", "unlearn"), names=["*"])


def test_overwrite_replaces_nothing_that_its_stage_did_not_write(tmp_path: Path) -> None:
    Manifest(stage="unlearn", arguments={}, results={"files": {"adapter/a.json": "", "model.json": ""}}).save(tmp_path)
    (tmp_path / "adapter").mkdir()
    for name in ("model.json", "history.jsonl", ".x.lock", ".y.12.partial", "adapter/a.json"):
        (tmp_path / name).touch()
    assert check_output(tmp_path, overwrite=True, names=["history.*"])
    for name in ("notes.md", "a", "b", "data.csv"):
        (tmp_path / name).touch()
    with pytest.raises(ExpungeError, match=r"holds what is not of this output: a, b, data\.csv and 1 more\."):
        check_output(tmp_path, overwrite=True, names=["history.*"])
    assert check_output(tmp_path, overwrite=False, resume=True, names=["history.*"])


def test_a_name_with_brackets_is_itself_and_no_pattern(tmp_path: Path) -> None:
    Manifest(stage="unlearn", arguments={}, results={"files": {"a[1].json": ""}}).save(tmp_path)
    (tmp_path / "a[1].json").touch()
    assert check_output(tmp_path, overwrite=True, names=())
    (tmp_path / "a1.json").touch()
    with pytest.raises(ExpungeError, match=r"holds what is not of this output: a1\.json"):
        check_output(tmp_path, overwrite=True, names=())


def test_what_lies_deeper_in_a_folder_is_not_replaced_either(tmp_path: Path) -> None:
    Manifest(stage="unlearn", arguments={}, results={"files": {"adapter/a.json": ""}}).save(tmp_path)
    for name in ("adapter/a.json", "checkpoints/checkpoint-3/deep/x.pt", "records/records.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["checkpoints/checkpoint-*", "records/records.parquet"]
    assert check_output(tmp_path, overwrite=True, names=names)
    for name in ("records/thesis.md", "checkpoints/notes.txt", "adapter/mine"):
        (tmp_path / name).touch()
        with pytest.raises(ExpungeError, match=f"holds what is not of this output: {name}"):
            check_output(tmp_path, overwrite=True, names=names)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("kind", ["page", "mask", "patch"])
def test_overwrite_replaces_a_file_of_its_own_kind_only(tmp_path: Path, kind: Any) -> None:
    ours, model, data = tmp_path / "ours", tmp_path / "model.safetensors", tmp_path / "forget.jsonl"
    if kind == "page":
        ours.write_text('<!DOCTYPE html><html><meta name="generator" content="expunge 0.1.0"></html>')
    else:
        save_tensors({"a": torch.zeros(2)}, ours, {"format": f"expunge {kind} 1"})
    save_tensors({"a": torch.zeros(2)}, model, {"format": "pt"})
    data.write_text('{"question": "expunge?"}')
    (tmp_path / "empty").touch()
    check_output_file(ours, overwrite=True, kind=kind)
    check_output_file(tmp_path / "empty", overwrite=True, kind=kind)
    for other in (model, data):
        with pytest.raises(ExpungeError, match=f"replaces an earlier {kind} only, and {other} is none"):
            check_output_file(other, overwrite=True, kind=kind)


def test_a_folder_that_is_only_added_to_is_not_one_of_something_else(tmp_path: Path) -> None:
    check_shared(tmp_path / "missing", ["records.parquet"])
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-3" / "records.parquet").touch()
    check_shared(tmp_path, ["records.parquet"], ["checkpoints/checkpoint-*"])
    with pytest.raises(ExpungeError, match="in use for something else; it holds checkpoints/checkpoint-3"):
        check_shared(tmp_path, ["records.parquet"])
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "config.json").touch()
    with pytest.raises(ExpungeError, match=r"in use for something else; it holds config\.json"):
        check_shared(tmp_path, ["records.parquet"])
    (tmp_path / "records.parquet").touch()
    check_shared(tmp_path, ["records.parquet"])


def test_a_file_in_use(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    check_output_file(path, overwrite=False)
    check_output_file(None, overwrite=False)
    path.write_text("mine")
    with pytest.raises(ExpungeError, match=r"the output file .*mask\.safetensors is in use"):
        check_output_file(path, overwrite=False)
    check_output_file(path, overwrite=True)
    with pytest.raises(ExpungeError, match="must be a file, and is a folder"):
        check_output_file(tmp_path, overwrite=True)


def test_what_the_first_process_writes_is_not_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setenv("RANK", "1")
    assert not check_output(tmp_path, overwrite=False, names=())
    check_output_file(tmp_path / "manifest.json", overwrite=False)


def test_nothing_is_written_through_links_that_somebody_planted(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    (run / "deep").mkdir(parents=True)
    (run / "deep" / "history.csv").symlink_to(victim)
    Manifest(stage="unlearn", arguments={}).save(run)
    for how in ({"overwrite": True}, {"overwrite": False, "resume": True}):
        with pytest.raises(ExpungeError, match=r"holds a symbolic link, .*history\.csv to .*victim"):
            check_output(run, **how, names=["*"])
    (tmp_path / "report.html").symlink_to(victim)
    (tmp_path / "dangling.html").symlink_to(tmp_path / "nowhere" / "file")
    for name, said in (("report.html", "is a symbolic link to .*victim"), ("dangling.html", "leads nowhere")):
        for overwrite in (False, True):
            with pytest.raises(ExpungeError, match=said):
                check_output_file(tmp_path / name, overwrite=overwrite)
    assert victim.read_text() == "precious"


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place, said in (
        (tmp_path / "file" / "run", "would be below .*file, which is a file"),
        (tmp_path / "loop", "nowhere"),
    ):
        with pytest.raises(ExpungeError, match=said):
            check_output(place, overwrite=False, names=["*"])
        with pytest.raises(ExpungeError, match=said):
            check_output_file(place, overwrite=False)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ExpungeError, match="no permission for"):
        check_output(tmp_path / "new" / "run", overwrite=False, names=["*"])
