"""What goes into a release, and that nothing of this machine does."""

import json
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.release.contents import base_of, files_of, is_path, names_places, released


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_whole_weights_are_taken_as_they_are(place: Path) -> None:
    run = place / "runs/npo"
    found = files_of(run, "merged")
    assert sorted(found) == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert all(path.parent == run for path in found.values())
    assert files_of(run, "gguf") == {}


def test_forms_of_an_adapter(place: Path) -> None:
    run = place / "runs/lora"
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert set(files_of(run, "merged")) == tokenizer  # its weights are made anew
    assert set(files_of(run, "adapter")) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter.json",
        *tokenizer,
    }
    with pytest.raises(ExpungeError, match=r"holds whole weights and no adapter.*form=merged"):
        files_of(place / "runs/npo", "adapter")


def test_what_is_a_path() -> None:
    for text in ("/home/someone/model", "/data/x", "C:\\models\\x", "D:/models/x"):
        assert is_path(text)
    for other in ("user/model", "runs/npo", "/s", "a\n/tmp/x", "https://a.b/c", "", None, 3):
        assert not is_path(other)


def test_what_names_no_folder_is_taken_byte_for_byte(tmp_path: Path) -> None:
    assert released(written(tmp_path, "config.json", {"_name_or_path": "user/model", "a": "/s"}), None) is None
    assert released(written(tmp_path, "tokenizer_config.json", {"token": "/no/such"}), None) is None  # may be a token
    assert released(written(tmp_path, "tokenizer.json", {"a": str(tmp_path)}), None) is None  # no place for paths


def test_of_folders_only_names_are_left(tmp_path: Path) -> None:
    content = {"_name_or_path": "/data/gone", "a": 1, "quantization": {"files": [f"{tmp_path}/config.json"]}}
    text = released(written(tmp_path, "config.json", content), None)
    assert text is not None and json.loads(text) == {"a": 1, "quantization": {"files": ["config.json"]}}
    text = released(written(tmp_path, "adapter_config.json", {"base_model_name_or_path": str(tmp_path)}), "user/model")
    assert text is not None and json.loads(text) == {"base_model_name_or_path": "user/model"}
    text = released(written(tmp_path, "adapter.json", {"reference": str(tmp_path)}), None)
    assert text is not None and json.loads(text) == {"reference": tmp_path.name}


def test_records_that_name_folders_are_known(tmp_path: Path) -> None:
    assert names_places(written(tmp_path, "erasure.json", {"derivatives": {"/data/gone/q4": "sha256:0"}}))
    assert names_places(written(tmp_path, "erasure.json", {"start_model": {"name": "/data/gone"}}))
    assert not names_places(written(tmp_path, "erasure.json", {"start_model": {"name": "runs/start"}}))


def test_the_name_of_the_start_model(place: Path) -> None:
    lora, npo = place / "runs/lora", place / "runs/npo"
    assert base_of(npo, Manifest.load(npo), "merged", None) is None
    assert base_of(npo, Manifest.load(npo), "merged", "user/start") == "user/start"
    with pytest.raises(ExpungeError, match=f"stands on {place / 'start'}, a folder.*base_model='user/model'"):
        base_of(lora, Manifest.load(lora), "adapter", None)
    with pytest.raises(ExpungeError, match=r"must be a name on a hub"):
        base_of(npo, Manifest.load(npo), "merged", str(place / "start"))


def test_a_start_model_that_came_from_a_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.models.cached.try_to_load_from_cache", lambda name, file: "/cache/config.json")
    npo = place / "runs/npo"
    manifest = Manifest(stage="unlearn", arguments={}, results={"start_model": "user/start"})
    assert base_of(npo, manifest, "gguf", None) == "user/start"
