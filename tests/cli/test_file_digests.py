"""One fingerprint for one file, in the manifest of every stage that reads it."""

import hashlib
from pathlib import Path

import pytest

from expunge.cli import main
from expunge.core.manifest import Manifest, file_digest
from expunge.masks.mask import Mask
from expunge.models.identity import weights_identity
from expunge.models.load import load_model
from expunge.results.foreign_logs import load_records


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def test_every_stage_names_the_file_by_the_same_digest(model_folder: Path, data: Path, tmp_path: Path) -> None:
    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    run("train", f"model={model_folder}", f"data={data}/retain.jsonl", "epochs=1", f"output={tmp_path}/train")
    run("unlearn", f"model={model_folder}", *sets, "method=npo", "epochs=1", f"output={tmp_path}/run")
    run(
        "localize", f"model={model_folder}", *sets, "attribution=wagle", "ratio=0.1", f"output={tmp_path}/m.safetensors"
    )
    run("evaluate", f"model={tmp_path}/run", *sets, "metrics=forget_probability,retain_probability")
    expected = f"sha256:{hashlib.sha256((data / 'forget.jsonl').read_bytes()).hexdigest()}"
    unlearned, records = Manifest.load(tmp_path / "run"), load_records(tmp_path / "run").manifest
    mask = Mask.load(tmp_path / "m.safetensors").manifest
    assert mask is not None
    manifests = [unlearned, records, mask]
    assert {manifest.results["data"]["forget"]["file"] for manifest in manifests} == {expected}
    content = {manifest.results["data"]["forget"]["content"] for manifest in manifests}
    assert content == {records.inputs["data.forget"]}
    (trained,) = Manifest.load(tmp_path / "train").results["data"].values()
    assert trained == records.results["data"]["retain"]
    # The result's own digest, by which its records are known for its own.
    assert unlearned.results["result"] == weights_identity(load_model(tmp_path / "run"))
    assert unlearned.results["result"]["model"] == records.inputs["model"] != unlearned.inputs["model"]


@pytest.mark.parametrize("how", [("adapter=lora", "rank=2"), ("adapter=lora", "rank=2", "save=adapter")])
def test_the_digest_of_a_result_is_that_of_the_model_that_is_loaded(
    model_folder: Path, data: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    run("unlearn", f"model={model_folder}", *sets, "method=npo", "epochs=1", *how, f"output={tmp_path}/run")
    known = Manifest.load(tmp_path / "run").results["result"]
    folder = tmp_path / "run"
    adapter = next((place.parent for place in folder.rglob("adapter_config.json")), folder)
    assert known == weights_identity(load_model(adapter))


def test_a_folder_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("deep/b", "2")):
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_text(text)
    before = file_digest(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "other")
    assert file_digest(tmp_path / "other") == before
    (tmp_path / "other" / "a").write_text("3")
    assert file_digest(tmp_path / "other") != before
