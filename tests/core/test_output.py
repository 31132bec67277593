"""Output that is there already: what may be replaced or resumed, and the one message."""

from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.core.output import check_output, check_output_file


def test_a_missing_or_empty_folder_is_free(tmp_path: Path) -> None:
    assert not check_output(tmp_path, overwrite=False)
    assert not check_output(tmp_path / "missing", overwrite=False, resume=False)


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
        check_output(tmp_path, overwrite=False, resume=resume)
    assert f"the output folder {tmp_path} is in use. {message}" in str(error.value)
    assert check_output(tmp_path, overwrite=True, resume=resume)
    assert check_output(tmp_path, overwrite=False, resume=True)


def test_a_file_in_the_place_of_a_folder_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExpungeError, match=r"the output file .*file is in use"):
        check_output(tmp_path / "file", overwrite=False)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"nothing to resume: .* Start without resume=True"):
        check_output(tmp_path, overwrite=False, resume=True)


@pytest.mark.parametrize("content", [None, "[]", '{"stage": "train"}'])
def test_overwrite_replaces_its_own_stages_only(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ExpungeError, match="replaces earlier output of train or unlearn only"):
        check_output(tmp_path, overwrite=True, stages=("train", "unlearn"))
    Manifest(stage="unlearn", arguments={}).save(tmp_path)
    assert check_output(tmp_path, overwrite=True, stages=("train", "unlearn"))


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
    assert not check_output(tmp_path, overwrite=False)
    check_output_file(tmp_path / "manifest.json", overwrite=False)
