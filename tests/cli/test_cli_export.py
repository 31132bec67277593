"""`expunge export`: what is shown, dry runs, and mistakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import made_run

Call = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run made by hand with an evaluation beside it."""
    made_run.run(tmp_path / "runs" / "npo")
    made_run.evaluation(forget_rouge=0.1).save(tmp_path / "runs" / "npo-records" / "evaluation.json")
    return tmp_path / "runs"


def test_a_release_is_listed_with_digests(runs: Path, call: Call) -> None:
    found = call("export", runs / "npo", f"output={runs / 'release'}", "base_model=user/start", "license=mit")
    assert found.code == 0 and f"release: {runs / 'release'}" in found.out
    assert f"model.safetensors {made_run_digest(runs)}" in " ".join(found.out.split())
    text = (runs / "release/README.md").read_text()
    assert "base_model: user/start" in text and "license: mit" in text and "| forget ROUGE ↑ |" in text
    again = call("export", runs / "npo", f"output={runs / 'release'}")
    assert again.code == 2 and "is in use" in again.err and "--overwrite" in again.err
    assert call("export", runs / "npo", f"output={runs / 'release'}", "--overwrite").code == 0


def made_run_digest(runs: Path) -> str:
    from expunge.core.manifest import file_digest

    return file_digest(runs / "npo" / "model.safetensors").partition(":")[2]


def test_a_dry_run_writes_nothing_and_says_files_sizes_and_place(runs: Path, call: Call) -> None:
    before = sorted(runs.rglob("*"))
    found = call("export", runs / "npo", f"output={runs / 'release'}", "--dry-run")
    assert found.code == 0 and sorted(runs.rglob("*")) == before
    size = (runs / "npo" / "model.safetensors").stat().st_size
    assert size == 9 and "model.safetensors" in found.out and f"folder {runs / 'release'}" in found.out
    assert "evaluation: yes" in found.out and "attacks: none" in found.out and "base model: not named" in found.out
    (runs / "npo/config.json").write_text("{ }")
    found = call("export", runs / "npo", f"output={runs / 'release'}", "--dry-run")
    assert found.code == 1 and "were changed or removed since the run: config.json" in found.out


def test_a_dry_run_says_what_the_hub_holds(runs: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import stand_in_hub

    with stand_in_hub.hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", stand_in_hub.TOKEN)
        found = call("export", runs / "npo", "to=hub", "repo=user/npo", "--dry-run")
        assert found.code == 0 and f"user/npo on {hub.url}: a new repository, private" in found.out
        hub.repositories["user/npo"] = stand_in_hub.Repository(private=True)
        hub.repositories["user/npo"].branches["main"]["a.txt"] = b"mine"
        found = call("export", runs / "npo", "to=hub", "repo=user/npo", "--dry-run")
        assert found.code == 1 and "holds files: a.txt" in found.out
        assert not [asked for asked in hub.asked if asked.startswith("POST")]


def test_mistakes_are_told(runs: Path, call: Call) -> None:
    run, output = runs / "npo", f"output={runs / 'release'}"
    for words, said in (
        (("export", output), "name one run folder"),
        (("export", run), "name the folder of the release: output=release"),
        (("export", run, "to=hub"), "to=hub needs a repository: repo=user/name"),
        (("export", run, output, "repo=user/npo"), "repo is for to=hub"),
        (("export", run, output, "form=onnx"), "form"),
        (("export", run, output, "form=adapter"), "holds whole weights and no adapter"),
        (("export", run, output, "dtype=f16"), "leave it out"),
        (("export", run, output, "fom=gguf"), "Did you mean 'form'?"),
        (("export", runs / "none", output), "there is no folder"),
    ):
        found = call(*words)
        assert found.code == 2 and said in found.err, words
    assert not (runs / "release").exists()
