"""Uploads to a hub that stands in for the real one: what arrives, what is refused, what is never replaced."""

from pathlib import Path

import pytest

import stand_in_hub
from expunge.core.checks import ExpungeError
from expunge.release.hub import Destination, check_hub, endpoint, upload

HERE = Destination(repo="user/npo")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's own client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "release").mkdir()
    content = {
        "README.md": b"---\ntags: [a]\n---\n# npo\n",
        "config.json": b"{}\n",
        "model.safetensors": b"\x00\xff" * 70,
    }
    for name, data in content.items():
        (tmp_path / "release" / name).write_bytes(data)
    return tmp_path / "release"


def there(hub: stand_in_hub.Hub, branch: str = "main") -> dict[str, bytes]:
    files = hub.repositories["user/npo"].branches[branch]
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def here(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_arrives_is_what_is_in_the_folder(hub: stand_in_hub.Hub, folder: Path) -> None:
    found = check_hub(HERE, overwrite=False)
    assert not found.exists and not any(asked.startswith("POST") for asked in hub.asked)
    url = upload(folder, HERE, found, "npo")
    assert there(hub) == here(folder) and hub.repositories["user/npo"].private
    assert url == f"{hub.url}/user/npo/commit/{hub.repositories['user/npo'].head('main')}"
    assert any(asked.startswith("PUT /objects/") for asked in hub.asked)  # weights go through large file storage
    assert endpoint() == hub.url


def test_a_repository_is_public_only_where_that_is_said(hub: stand_in_hub.Hub, folder: Path) -> None:
    public = Destination(repo="user/npo", private=False)
    upload(folder, public, check_hub(public, overwrite=False), "npo")
    assert not hub.repositories["user/npo"].private


def test_a_branch_of_its_own(hub: stand_in_hub.Hub, folder: Path) -> None:
    hub.repositories["user/npo"] = stand_in_hub.Repository(private=True)
    hub.repositories["user/npo"].branches["main"]["other.txt"] = b"stays there"
    branch = Destination(repo="user/npo", revision="v2")
    upload(folder, branch, check_hub(branch, overwrite=False), "npo")
    assert there(hub, "v2") == here(folder) and there(hub) == {"other.txt": b"stays there"}
    fresh = Destination(repo="user/fresh", revision="v2")
    upload(folder, fresh, check_hub(fresh, overwrite=False), "npo")
    assert hub.repositories["user/fresh"].branches["v2"].keys() == {".gitattributes", *here(folder)}


def test_other_content_is_named_and_not_replaced(hub: stand_in_hub.Hub, folder: Path) -> None:
    hub.repositories["user/npo"] = stand_in_hub.Repository(private=True)
    hub.repositories["user/npo"].branches["main"] |= {"README.md": b"mine", "notes.txt": b"mine too"}
    with pytest.raises(ExpungeError, match=r"holds files: README.md, notes.txt. Choose another.*overwrite=True"):
        check_hub(HERE, overwrite=False)
    assert there(hub) == {"README.md": b"mine", "notes.txt": b"mine too"}
    upload(folder, HERE, check_hub(HERE, overwrite=True), "npo")
    assert there(hub) == here(folder)  # nothing of before is left among the new files


def test_what_came_since_the_look_is_not_replaced(hub: stand_in_hub.Hub, folder: Path) -> None:
    hub.repositories["user/npo"] = stand_in_hub.Repository(private=True)
    found = check_hub(HERE, overwrite=True)
    hub.repositories["user/npo"].branches["main"]["README.md"] = b"someone else's"
    with pytest.raises(ExpungeError, match=r"changed meanwhile .412."):
        upload(folder, HERE, found, "npo")
    assert there(hub) == {"README.md": b"someone else's"}


def test_a_token_is_asked_for_before_anything_else(
    hub: stand_in_hub.Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("expunge.release.hub.get_token", lambda: None)
    with pytest.raises(ExpungeError, match=r"needs a token that may write.*HF_TOKEN"):
        check_hub(HERE, overwrite=False)
    assert hub.asked == []


def test_tokens_that_are_refused(hub: stand_in_hub.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    with pytest.raises(ExpungeError, match=r"does not accept the token .401."):
        check_hub(HERE, overwrite=False)
    monkeypatch.setenv("HF_TOKEN", stand_in_hub.READ_ONLY)
    with pytest.raises(ExpungeError, match=r"may not write there .403."):
        upload(folder, HERE, check_hub(HERE, overwrite=False), "npo")
    assert hub.repositories == {}


def test_an_upload_that_stops_changes_nothing(hub: stand_in_hub.Hub, folder: Path) -> None:
    hub.full = True
    with pytest.raises(ExpungeError, match=r"stopped, and no file there was changed \(it is a new rep.*507"):
        upload(folder, HERE, check_hub(HERE, overwrite=False), "npo")
    assert there(hub) == {}
    with pytest.raises(ExpungeError, match=r"stopped, and nothing there was changed: .*model.safetensors.*507"):
        upload(folder, HERE, check_hub(HERE, overwrite=False), "npo")


def test_a_branch_that_is_refused_leaves_a_new_repository_which_is_said(hub: stand_in_hub.Hub, folder: Path) -> None:
    hub.branches, branch = False, Destination(repo="user/npo", revision="v2")
    with pytest.raises(ExpungeError, match=r"\(403\).* No file there was changed \(it is a new repository without fil"):
        upload(folder, branch, check_hub(branch, overwrite=False), "npo")
    assert there(hub) == {}
    with pytest.raises(ExpungeError, match=r"\(403\)") as refused:
        upload(folder, branch, check_hub(branch, overwrite=False), "npo")
    assert "new" not in str(refused.value)  # it was there before


def test_files_that_the_hub_leaves_out_are_named(hub: stand_in_hub.Hub, folder: Path) -> None:
    hub.ignored = ("config.json",)
    with pytest.raises(ExpungeError, match=r"user/npo did not take config.json: a .gitignore there"):
        upload(folder, HERE, check_hub(HERE, overwrite=False), "npo")


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch, hub: stand_in_hub.Hub) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ExpungeError, match=r"cannot reach user/npo on http://127.0.0.1:1"):
        check_hub(HERE, overwrite=False)


@pytest.mark.parametrize("repo", ["npo", "a/b/c", "user/", "user/na me", "user/--"])
def test_names_that_are_none(repo: str) -> None:
    with pytest.raises(ExpungeError, match=r"user/name"):
        Destination(repo=repo)
