"""The journal of a study: a line cut off at any byte costs that line alone."""

import json
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from expunge.core.checks import ExpungeError  # noqa: E402
from expunge.sweep.journal import (  # noqa: E402
    FILE,
    TORN,
    journal,
    opened,
    set_torn_aside,
    storage_of,
    without_password,
)


def made(folder: Path, attributes: int) -> list[bytes]:
    """The lines of a journal with one study and some attributes."""
    study = opened(storage_of(folder, None), "study", 1)
    for i in range(attributes):
        study.set_user_attr(f"a{i}", i)
    return (folder / FILE).read_bytes().splitlines(keepends=True)


def test_a_journal_cut_at_every_byte_of_its_last_line(tmp_path: Path) -> None:
    lines = made(tmp_path, 3)
    path, whole = tmp_path / FILE, b"".join(lines[:-1])
    for cut in range(1, len(lines[-1])):
        path.write_bytes(whole + lines[-1][:cut])
        with pytest.warns(UserWarning, match=r"the last line of .* was cut off"):
            study = opened(storage_of(tmp_path, None), "study", 1)
        study.set_user_attr("new", cut)
        (aside,) = tmp_path.glob(f"{FILE}.{TORN}.*")
        assert aside.read_bytes() == lines[-1][:cut]
        aside.unlink()
        assert path.read_bytes().startswith(whole)
        # Optuna's own reader takes it, too.
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        known = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend)).user_attrs
        assert known == {"a0": 0, "a1": 1, "new": cut}


def test_without_our_care_a_cut_line_breaks_the_journal(tmp_path: Path) -> None:
    lines = made(tmp_path, 2)
    (tmp_path / FILE).write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / FILE))
    backend.append_logs([{"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"b": 1}}])
    backend.append_logs([{"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"b": 2}}])
    with pytest.raises(json.JSONDecodeError):
        optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / FILE)))
    with pytest.raises(ExpungeError, match="is damaged before its last line"):
        storage_of(tmp_path, None)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"{}\n[]\n"])
def test_whole_journals_are_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    assert set_torn_aside(path) is None
    assert path.read_bytes() == content


def test_a_torn_line_longer_than_a_piece_that_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    with pytest.warns(UserWarning, match="cut off"):
        aside = set_torn_aside(path)
    assert aside is not None and aside.stat().st_size == 200_000 and path.read_bytes() == b"{}\n"
    path.write_bytes(b"x" * 100)  # the very first line
    with pytest.warns(UserWarning, match="cut off"):
        set_torn_aside(path)
    assert path.read_bytes() == b""


def test_a_lock_that_a_killed_process_left_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / FILE
    monkeypatch.chdir(tmp_path.parent)
    relative = Path(tmp_path.name) / FILE  # as a folder is named on a command line
    killed = journal(relative, grace=3)
    killed._lock.acquire()  # type: ignore[attr-defined]
    assert (tmp_path / f"{FILE}.lock").resolve() == path
    journal(relative, grace=3).append_logs([{"op_code": 0}])
    assert json.loads(path.read_text()) == {"op_code": 0}


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    assert without_password("postgresql://me:s3cret@host/db") == "postgresql://me:***@host/db"
    assert without_password("sqlite:////tmp/study.db") == "sqlite:////tmp/study.db"
    with pytest.raises(ExpungeError, match="cannot be used") as caught:
        storage_of(tmp_path, "nosuch://me:s3cret@host/db")
    assert "s3cret" not in str(caught.value)
