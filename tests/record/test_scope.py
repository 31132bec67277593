"""Salted hashes of rows, and the file of the salt."""

import hashlib
import stat
from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Example
from expunge.record.scope import out_of_scope, read_salt, row_hash, salt_at, scope

SALT = bytes(range(32))
ROW = Example(kind="qa", prompt="Who?", completion="Ann")


def test_a_hash_is_hmac_sha256_of_the_content() -> None:
    message = b'{"completion":"Ann","messages":[],"prompt":"Who?"}'
    inner, outer = (bytes(b ^ pad for b in SALT.ljust(64, b"\0")) for pad in (0x36, 0x5C))
    by_hand = hashlib.sha256(outer + hashlib.sha256(inner + message).digest()).hexdigest()
    assert row_hash(ROW, SALT) == by_hand


def test_content_and_salt_decide_and_nothing_else() -> None:
    assert row_hash(replace(ROW, origin="forget.jsonl, line 3", paraphrased="Anna"), SALT) == row_hash(ROW, SALT)
    others = [
        replace(ROW, completion="Anne"),
        replace(ROW, prompt="who?"),
        replace(ROW, prompt="", completion="Who?Ann"),
        replace(ROW, kind="chat", prompt="", messages=(("user", "Who?"),)),
    ]
    assert len({row_hash(row, SALT) for row in (ROW, *others)}) == 5
    assert row_hash(ROW, bytes(32)) != row_hash(ROW, SALT)


def test_an_accent_typed_as_two_characters_is_the_same_row() -> None:
    one, two = replace(ROW, completion="Zo\u00eb"), replace(ROW, completion="Zoe\u0308")
    assert row_hash(one, SALT) == row_hash(two, SALT) != row_hash(replace(ROW, completion="Zoe"), SALT)


def test_rows_in_and_out_of_scope() -> None:
    forget, retain = zoo.corpus()["forget"], zoo.corpus()["retain"]
    found = scope(forget, SALT)
    assert found["rows"] == 6 and found["hashes"] == sorted(found["hashes"]) and len(set(found["hashes"])) == 6
    assert out_of_scope(forget[2:4], SALT, found) == []
    assert out_of_scope([forget[0], retain[0], forget[5], retain[1]], SALT, found) == [1, 3]
    assert out_of_scope(forget, bytes(32), found) == [*range(6)]


def test_the_salt_is_random_kept_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = salt_at(tmp_path / "a" / "one.salt", tmp_path / "run")
    assert len(first) == 32 and salt_at(tmp_path / "a" / "one.salt", tmp_path / "run") == first
    assert salt_at(tmp_path / "two.salt", tmp_path / "run") != first
    assert stat.S_IMODE((tmp_path / "a" / "one.salt").stat().st_mode) == 0o600


def test_the_salt_is_never_inside_the_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for path in (tmp_path / "run" / "salt", tmp_path / "run" / "deep" / "salt", tmp_path / "link" / "salt"):
        with pytest.raises(ExpungeError, match="would be inside the run folder"):
            salt_at(path, tmp_path / "run")
        assert not path.exists()


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "00" * 31, "é" * 64])
def test_what_is_no_salt_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "salt").write_text(content)
    with pytest.raises(ExpungeError, match="is not a salt: it must hold 64 hex digits"):
        read_salt(tmp_path / "salt")
    with pytest.raises(ExpungeError, match="no salt at"):
        read_salt(tmp_path / "none")
