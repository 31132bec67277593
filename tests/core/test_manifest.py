"""Manifests and fingerprints."""

import json
import subprocess
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from expunge.core.checks import ExpungeError
from expunge.core.manifest import FILE, Manifest, fingerprint, git_revision, jsonable, versions


def test_bytes_are_hashed_as_they_are() -> None:
    # XXH3 of nothing, 128 bits, as published by the algorithm's author.
    assert fingerprint(b"") == "xxh3:99aa06d3014798d86001c324468d497f"
    assert fingerprint(b"abc") == f"xxh3:{xxhash.xxh3_128_hexdigest(b'abc')}"


def test_other_content_is_hashed_as_canonical_json() -> None:
    assert fingerprint({"b": [1, "é"], "a": None}) == fingerprint('{"a":null,"b":[1,"é"]}'.encode())
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_different_lists_have_different_fingerprints(one: list[str], other: list[str]) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)


def test_boundaries_between_texts_count() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    manifest = Manifest(
        stage="unlearn",
        arguments={"method": "npo", "beta": 0.1, "title": "é"},
        seed=3,
        inputs={"model": "xxh3:0"},
        results={"steps": 25},
    )
    path = manifest.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / FILE
    assert Manifest.load(path.parent) == manifest
    assert "é" in path.read_text(encoding="utf-8")  # legible, not \u00e9


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    path = Manifest(stage="train", arguments={}).save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"from_the_future": 1}))
    assert Manifest.load(tmp_path).stage == "train"


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=f"no manifest in .*expected the file .*{FILE}"):
        Manifest.load(tmp_path)
    Manifest(stage="unlearn", arguments={}).save(tmp_path / "npo")
    with pytest.raises(ExpungeError, match=r"there is no folder .*/npp\. Did you mean '.*/npo'\?$"):
        Manifest.load(tmp_path / "npp")
    with pytest.raises(ExpungeError, match=r"there is no folder .*/other/wga\.$"):
        Manifest.load(tmp_path / "other" / "wga")


def test_versions_name_what_results_depend_on() -> None:
    found = versions()
    assert {"python", "expunge", "torch", "transformers", "numpy"} <= set(found)
    assert found["python"].startswith("3.")


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.core.manifest._PACKAGES", ("numpy", "no-such-package"))
    assert set(versions()) == {"python", "numpy"}


class TestGitRevision:
    def git(self, folder: Path, *arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(folder), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def test_commit_and_cleanliness(self, tmp_path: Path) -> None:
        self.git(tmp_path, "init", "-q")
        (tmp_path / "file").write_text("a")
        self.git(tmp_path, "add", "file")
        self.git(tmp_path, "commit", "-qm", "first")
        commit = self.git(tmp_path, "rev-parse", "HEAD")
        assert git_revision(tmp_path) == {"commit": commit, "dirty": False}
        (tmp_path / "file").write_text("b")
        assert git_revision(tmp_path) == {"commit": commit, "dirty": True}

    def test_none_outside_of_a_tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert git_revision(tmp_path) is None

    def test_none_without_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert git_revision(tmp_path) is None


def test_jsonable_keeps_what_json_holds_and_names_the_rest() -> None:
    class Opaque: ...

    found = jsonable(
        {"a": 1, "b": (1.5, None), "c": {"d": {2}, 3: True}, "path": Path("x/y"), "object": Opaque(), "text": "t"}
    )
    assert found == {
        "a": 1,
        "b": [1.5, None],
        "c": {"d": [2], "3": True},
        "path": "x/y",
        "object": f"<{__name__}.test_jsonable_keeps_what_json_holds_and_names_the_rest.<locals>.Opaque>",
        "text": "t",
    }
    json.dumps(found)
