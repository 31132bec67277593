"""The file of a record: an in-toto statement, in which one changed byte is found wherever it is."""

import json
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.manifest import file_digest
from expunge.record.statement import PREDICATE, read_statement, statement, text_of

FILES = {"model.safetensors": f"sha256:{'ab' * 32}"}
SAID = {"request": {"id": "Akte-ß"}, "value": 0.1, "n": 3, "none": None, "nan": float("nan"), "list": [1, 2.5, True]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "erasure.json"
    file.write_bytes(text_of(statement(FILES, SAID)).encode())
    return file


def test_it_is_a_statement_of_in_toto(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    assert set(content) == {"_type", "subject", "predicateType", "predicate"}
    assert content["_type"] == "https://in-toto.io/Statement/v1" and content["predicateType"] == PREDICATE
    assert content["subject"] == [{"name": "model.safetensors", "digest": {"sha256": "ab" * 32}}]


def test_what_was_written_is_read(path: Path) -> None:
    found = read_statement(path.parent)
    assert not found.fault and found.files == FILES and found.digest == file_digest(path)
    assert found.predicate["request"] == {"id": "Akte-ß"} and found.predicate["nan"] is None
    assert read_statement(path) == found


@pytest.mark.parametrize("bit", [0x01, 0x04, 0x20, 0x80])
def test_one_changed_byte_anywhere_is_found(path: Path, bit: int) -> None:
    whole = path.read_bytes()
    unnoticed = []
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            if not read_statement(path).fault:
                unnoticed.append(at)
        except ExpungeError:
            pass  # it can no longer be read at all
    assert len(whole) > 400 and unnoticed == []


def test_a_byte_more_or_less_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for changed in (whole + b"\n", whole[:-1], b" " + whole, b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r\n")):
        path.write_bytes(changed)
        assert read_statement(path).fault == "its text is not as it was written"


def test_something_else_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"no erasure record at .*expunge record <run>"):
        read_statement(tmp_path)
    for content in (
        {},
        {"_type": "https://in-toto.io/Statement/v1"},
        json.loads(text_of(statement(FILES, {}))) | {"subject": 5},
    ):
        (tmp_path / "erasure.json").write_text(json.dumps(content))
        with pytest.raises(ExpungeError, match=r"is not an erasure record|is damaged"):
            read_statement(tmp_path)
