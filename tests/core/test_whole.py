"""Files and folders that are there whole or not at all."""

from pathlib import Path

import pytest

from expunge.core.lock import locked
from expunge.core.whole import is_left_over, make_room, move_into, whole_folder, write_whole


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "old\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, "new\n")
    assert path.read_text() == "old\n" and list(tmp_path.iterdir()) == [path]
    write_whole(path, "new\n")
    assert path.read_bytes() == b"new\n"


def test_a_folder_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "records"
    with whole_folder(folder) as aside:
        (aside / "a").write_text("1")
        assert not folder.exists()
    with pytest.raises(RuntimeError), whole_folder(folder) as aside:
        (aside / "b").write_text("2")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["a"] and list(folder.parent.iterdir()) == [folder]
    with whole_folder(folder) as aside:
        (aside / "b" / "c").mkdir(parents=True)
    assert [path.name for path in folder.iterdir()] == ["b"] and list(folder.parent.iterdir()) == [folder]


def test_what_killed_writers_left_is_removed_and_that_of_similar_names_stays(tmp_path: Path) -> None:
    for name in (".records.12.partial", ".records.12.replaced", ".records.v2.12.partial", ".records.12"):
        (tmp_path / name).mkdir()
    with whole_folder(tmp_path / "records"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"records", ".records.v2.12.partial", ".records.12"}


def test_what_killed_writers_left_of_a_file_is_removed_under_its_lock(tmp_path: Path) -> None:
    for held in (tmp_path / "out/file.json", tmp_path / "out", None):
        for name in (".file.json.12.partial", ".file.json.v2.12.partial"):
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / name).touch()
        with locked(held):
            write_whole(tmp_path / "out/file.json", "new\n")
        left = {".file.json.v2.12.partial"} if held else {".file.json.v2.12.partial", ".file.json.12.partial"}
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"file.json"} | left


def test_of_a_link_the_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with whole_folder(tmp_path / "link") as aside:
        (aside / "a").write_text("1")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target" / "a").is_file()


def test_where_the_new_name_cannot_be_given_the_old_folder_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "a").write_text("1")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError), whole_folder(folder):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["records"] and (folder / "a").is_file()


def test_a_folder_is_removed_with_what_killed_processes_left_of_it(tmp_path: Path) -> None:
    for name in ("run", ".run.12.replaced", ".run.v2.12.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("1")
    make_room(tmp_path / "run")
    make_room(tmp_path / "run")
    make_room(tmp_path / "deep" / "run")
    assert [path.name for path in tmp_path.iterdir()] == [".run.v2.12.replaced"]


def test_what_is_moved_into_a_folder_replaces_the_same_names_alone(tmp_path: Path) -> None:
    for name in ("run/adapter", "run/checkpoints", "run/result.partial/adapter"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run/adapter/old").write_text("1")
    (tmp_path / "run/result.partial/adapter/new").write_text("2")
    (tmp_path / "run/result.partial/model").write_text("3")
    move_into(tmp_path / "run/result.partial", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").rglob("*")} == {"adapter", "new", "model", "checkpoints"}


def test_left_overs_are_known_by_their_names(tmp_path: Path) -> None:
    for name in (".a.json.12.partial", ".a.json.partial", "a.12.partial"):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.12.partial").mkdir()
    assert [path.name for path in tmp_path.iterdir() if is_left_over(path)] == [".a.json.12.partial"]
