"""A run is exported: what is in a release and what never is, what is refused, and that nothing half is left."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import expunge
import made_run
import stand_in_hub
import zoo
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, file_digest, file_digests
from expunge.data.corpus import Corpus
from expunge.data.tokenizing import encode
from expunge.evaluation.evaluate import evaluate
from expunge.models.load import load_model, load_tokenizer
from expunge.record.record import record
from expunge.release import gguf_architectures
from expunge.release.export import export
from expunge.release.gguf_file import check_writable
from expunge.release.plan import plan_export

MERGED = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
OF_EVERY = {"README.md", "manifest.json"}


@pytest.fixture
def npo(place: Path, tmp_path: Path) -> Path:
    """A copy of the run with whole weights, with all that may lie in and beside a run."""
    run = tmp_path / "runs" / "npo"
    shutil.copytree(place / "runs/npo", run)
    return run


def texts(folder: Path) -> str:
    """All that can be read in a release; binary files too, as far as they hold text."""
    return "\n".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_whole_weights_byte_for_byte(npo: Path, tmp_path: Path) -> None:
    made = expunge.export(npo, output=tmp_path / "release")
    assert set(made.files) == MERGED | OF_EVERY and made.url is None and made.parity == ()
    assert made.files == file_digests(tmp_path / "release")
    assert all((npo / name).read_bytes() == (tmp_path / "release" / name).read_bytes() for name in MERGED)


def test_nothing_of_the_data_and_of_this_machine(npo: Path, place: Path, corpus: Corpus, tmp_path: Path) -> None:
    found = evaluate(load_model(npo), load_tokenizer(npo), corpus, suite="default", metrics=["forget_rouge"])
    found.save(tmp_path / "runs/npo-records/evaluation.json")
    (npo / "checkpoints").mkdir()
    (npo / "checkpoints" / "history.jsonl").write_text("{}")
    record(npo, request="REQ-1", corpus=corpus, salt=tmp_path / "salt")
    made = export(npo, output=tmp_path / "release")
    assert set(made.files) == MERGED | OF_EVERY | {"erasure.json"} and made.notes == ()
    said = texts(tmp_path / "release")
    assert str(tmp_path) not in said and str(place) not in said and (tmp_path / "salt").read_text().strip() not in said
    for split in ("forget", "retain"):
        for example in corpus[split]:
            assert example.completion not in said


def test_a_record_without_folders_goes_along(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "npo")
    made_run.evaluation(forget_rouge=0.1).save(tmp_path / "npo-records" / "evaluation.json")
    made_run.attacked({"sampling": (0.0, 0.9, 0.0, 0.0, 0.0, 0.0)}).save(tmp_path / "npo-attacked")
    record(run, request="REQ-1", corpus=made_run.CORPUS, attacked=tmp_path / "npo-attacked")
    export(run, output=tmp_path / "release")
    assert (tmp_path / "release/erasure.json").read_bytes() == (run / "erasure.json").read_bytes()
    text = (tmp_path / "release/README.md").read_text()
    assert "Verdict: **RESIDUAL**" in text and "| sampling |" in text and "1 of 6 facts leak" in text
    (run / "erasure.json").write_text((run / "erasure.json").read_text().replace("RESIDUAL", "ERASED"))
    with pytest.raises(ExpungeError, match=r"erasure record in .* was changed"):
        export(run, output=tmp_path / "other")


def test_a_record_that_names_a_place_is_left_out(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "npo")
    record(run, request="REQ-1", corpus=made_run.CORPUS, release="/srv/models/internal")
    made = export(run, output=tmp_path / "release")
    assert "erasure.json" not in made.files and "erasure.json was left out" in made.notes[0]
    assert "erasure.json was left out" in (tmp_path / "release/README.md").read_text()
    with pytest.raises(ExpungeError, match="no erasure record"):
        expunge.verify(tmp_path / "release")


def test_a_release_is_verified_by_its_manifest_and_its_weights_by_the_record(tmp_path: Path) -> None:
    run, release = made_run.run(tmp_path / "npo"), tmp_path / "release"
    record(run, request="REQ-1", corpus=made_run.CORPUS)
    export(run, output=release)
    found = expunge.verify(release)
    results = {check.what: check.result for check in found.checks}
    assert found.holds and results["model.safetensors"] == results["model.safetensors in the record"] == "right"
    assert results["README.md"] == results["erasure.json: seal"] == "right"
    assert results["manifest.json"] == "not checked"
    names = [path.name for path in release.iterdir() if path.name != "manifest.json"]
    assert {*names} == {"README.md", "erasure.json", *made_run.FILES} - {"history.csv"}
    text = (release / "erasure.json").read_text()
    (release / "erasure.json").write_text(text.replace("NO BASELINE", "ERASED"))
    assert [check.what for check in expunge.verify(release).wrong] == ["erasure.json: seal"]
    (release / "erasure.json").write_text(text)
    for name in {*names} - {"erasure.json"}:
        whole = (release / name).read_bytes()
        (release / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        assert [check.what for check in expunge.verify(release).wrong] == [name]
        (release / name).unlink()
        assert [(check.what, check.note) for check in expunge.verify(release).wrong] == [(name, "missing")]
        (release / name).write_bytes(whole)
    (release / "more.bin").write_bytes(b"")
    assert [check.what for check in expunge.verify(release).wrong] == ["more.bin"]
    (release / "more.bin").unlink()
    # Weights of another run, though the manifest was written anew for them.
    (release / "model.safetensors").write_bytes(b"others")
    manifest = Manifest.load(release)
    files = {**manifest.results["files"], "model.safetensors": file_digest(release / "model.safetensors")}
    replace(manifest, results={**manifest.results, "files": files}).save(release)
    assert [check.what for check in expunge.verify(release).wrong] == ["model.safetensors in the record"]


def test_a_release_with_other_weights_under_other_names_does_not_pass(tmp_path: Path) -> None:
    run, release = made_run.run(tmp_path / "npo"), tmp_path / "release"
    record(run, request="REQ-1", corpus=made_run.CORPUS)
    export(run, output=release)
    (release / "model.safetensors").rename(release / "model-00001-of-00001.safetensors")
    (release / "model-00001-of-00001.safetensors").write_bytes(b"the start model")
    (release / "tokenizer.json").write_bytes(b"{}")
    manifest = Manifest.load(release)
    files = {name: digest for name, digest in file_digests(release).items() if name != "manifest.json"}
    replace(manifest, results={**manifest.results, "files": files}).save(release)  # anyone can
    wrong = ["model-00001-of-00001.safetensors in the record", "tokenizer.json in the record"]
    assert [check.what for check in expunge.verify(release).wrong] == wrong


@pytest.mark.parametrize("name", ["a.bin", "sub/model.bin", "x.SAFETENSORS", "evil.py", "adapter_model.bin"])
def test_a_release_holds_no_file_that_the_record_does_not_know(tmp_path: Path, name: str) -> None:
    run, release = made_run.run(tmp_path / "npo"), tmp_path / "release"
    record(run, request="REQ-1", corpus=made_run.CORPUS)
    export(run, output=release)
    (release / "config.json").write_text('{"num_hidden_layers": 1}')  # cannot be compared, and is told
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes(b"others")
    manifest = Manifest.load(release)
    files = {path: digest for path, digest in file_digests(release).items() if path != "manifest.json"}
    replace(manifest, results={**manifest.results, "files": files}).save(release)
    found = expunge.verify(release)
    assert [check.what for check in found.wrong] == [f"{name} in the record"]
    assert {check.what: check.result for check in found.checks}["config.json in the record"] == "not checked"
    (release / name).unlink()
    (release / "model.safetensors").unlink()
    files = {path: digest for path, digest in files.items() if path not in (name, "model.safetensors")}
    replace(manifest, results={**manifest.results, "files": files}).save(release)
    assert [check.what for check in expunge.verify(release).wrong] == ["weights in the record"]


def test_a_release_beside_other_folders_is_not_mistaken(tmp_path: Path) -> None:
    first = made_run.run(tmp_path / "runs/first", result="xxh3:1")
    record(first, request="REQ-0", corpus=made_run.CORPUS)
    second = made_run.run(tmp_path / "runs/second", start="xxh3:1", start_model=str(first))
    record(second, request="REQ-1", corpus=made_run.CORPUS)
    export(second, output=tmp_path / "release")
    (tmp_path / "first").mkdir()
    found = expunge.verify(tmp_path / "release")
    assert found.holds and {c.what: c.result for c in found.checks}["chain"] == "not checked"
    # Where the run began elsewhere than beside it, its manifest says where.
    moved = tmp_path / "old"
    moved.mkdir()
    shutil.move(second, moved / "second")
    assert {c.what: c.result for c in expunge.verify(moved / "second").checks}["chain"] == "right"
    (first / "erasure.json").write_text((first / "erasure.json").read_text().replace("REQ-0", "REQ-9"))
    assert [check.what for check in expunge.verify(moved / "second").wrong] == ["chain"]


def test_a_release_of_a_model_made_from_the_run_is_vouched_for_where_the_record_names_it(tmp_path: Path) -> None:
    run, release = made_run.run(tmp_path / "npo"), tmp_path / "release"
    record(run, request="REQ-1", corpus=made_run.CORPUS)
    export(run, output=release)
    (release / "model.safetensors").write_bytes(b"merged")
    manifest = Manifest.load(release)
    files = {**manifest.results["files"], "model.safetensors": file_digest(release / "model.safetensors")}
    replace(manifest, results={**manifest.results, "files": files}).save(release)
    assert [check.what for check in expunge.verify(release).wrong] == ["model.safetensors in the record"]
    record(run, request="REQ-1", corpus=made_run.CORPUS, derivatives=[release], overwrite=True)
    shutil.copy(run / "erasure.json", release / "erasure.json")
    assert expunge.verify(release).holds


def test_an_adapter_is_merged(place: Path, tmp_path: Path) -> None:
    export(place / "runs/lora", output=tmp_path / "release")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "release").state_dict()
    expected = load_model(place / "runs/lora", device="cpu").state_dict()
    assert all(torch.equal(plain[name], expected[name]) for name in expected)
    assert str(place) not in texts(tmp_path / "release")


def test_an_adapter_alone(place: Path, tmp_path: Path) -> None:
    export(place / "runs/lora", output=tmp_path / "release", form="adapter", base_model="user/start")
    assert str(place) not in texts(tmp_path / "release")
    head = ModelCard.load(tmp_path / "release/README.md").data
    assert (head.base_model, head.base_model_relation, head.library_name) == ("user/start", "adapter", "peft")
    config = json.loads((tmp_path / "release/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "user/start"
    config["base_model_name_or_path"] = str(place / "start")  # as it is for whoever has the start model
    (tmp_path / "release/adapter_config.json").write_text(json.dumps(config))
    found = load_model(tmp_path / "release", device="cpu").state_dict()
    expected = load_model(place / "runs/lora", device="cpu").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("run", ["npo", "lora"])
def test_gguf_is_compared_with_the_model(run: str, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    made = export(place / "runs" / run, output=tmp_path / "release", form="gguf", dtype="q8_0", rows=4)
    assert set(made.files) == {f"{run}-Q8_0.gguf"} | OF_EVERY
    assert [(one.split, len(one.rows), one.of) for one in made.parity] == [("forget", 4, 6), ("retain", 4, 10)]
    assert all(0 < one.largest < one.tolerance for one in made.parity)
    text = (tmp_path / "release/README.md").read_text()
    assert "On 4 of 6 rows of the forget set" in text and "gguf" in ModelCard(text).data.tags
    assert Manifest.load(tmp_path / "release").results["parity"][0]["rows"] == 4


def test_a_file_that_answers_otherwise_is_not_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setitem(
        gguf_architectures.ARCHITECTURES,  # type: ignore[arg-type]
        "llama",
        gguf_architectures.Architecture(
            **{**gguf_architectures._LLAMA, "layout": gguf_architectures._as_it_is},  # type: ignore[arg-type]
            needs={},
            ropes=("default",),
        ),
    )
    with pytest.raises(ExpungeError, match=r"does not answer as the model does, so it was not kept.*rows 1, 2"):
        export(place / "runs/npo", output=tmp_path / "release", form="gguf")
    assert list(tmp_path.iterdir()) == []
    made = export(place / "runs/npo", output=tmp_path / "release", form="gguf", check="none")
    assert made.notes == ("The GGUF file was not compared with the model.",)


def test_other_tokens_are_found(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    other = zoo.tiny_tokenizer(["Where does it live?"], vocabulary=300)
    monkeypatch.setattr("expunge.release.parity.read_tokenizer", lambda file: other)
    monkeypatch.setattr("expunge.release.export.load_model", None)  # no weight is read before that
    own, row = zoo.tokenizer(), zoo.corpus()["forget"][0]
    (ours,), (theirs,) = (encode([row], one) for one in (own, other))
    at = next(i for i, (a, b) in enumerate(zip(ours.ids, theirs.ids, strict=False)) if a != b)
    named = [repr(of.convert_ids_to_tokens(ids[at])) for of, ids in ((own, ours.ids), (other, theirs.ids))]
    first = f"token {at + 1} is {named[0]} (id {ours.ids[at]}), and {named[1]} (id {theirs.ids[at]}) there"
    for asked in (export, plan_export):
        with pytest.raises(ExpungeError) as refused:
            asked(place / "runs/npo", output=tmp_path / "release", form="gguf")
        said = "other tokens than the model's: forget, 6 of 6 rows (rows 1, 2, 3, 4, 5 and 1 more). First in row 1: "
        assert f"{said}{first}. Take form=merged." in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_without_a_place_is_refused_before_weights_are_read() -> None:
    pytest.importorskip("gguf")
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=320, add_cross_attention=True))
    with pytest.raises(ExpungeError, match=r"transformer.h.0.crossattention.* has no place in a GGUF file of gpt2"):
        check_writable(model, zoo.tokenizer())


def test_rows_are_asked_for_where_the_run_does_not_say(npo: Path, corpus: Corpus, tmp_path: Path) -> None:
    manifest = json.loads((npo / "manifest.json").read_text())
    manifest["results"]["corpus"] = {}
    (npo / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExpungeError, match=r"not at hand.*forget='forget.jsonl'.*check='none'"):
        plan_export(npo, output=tmp_path / "release", form="gguf")
    assert plan_export(npo, output=tmp_path / "release", form="gguf", corpus=corpus, rows=4).rows["retain"].of == 10


def test_nothing_is_replaced_unless_that_is_said(npo: Path, tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release/README.md").write_text("mine")
    with pytest.raises(ExpungeError, match=r"is in use"):
        export(npo, output=tmp_path / "release")
    with pytest.raises(ExpungeError, match=r"replaces earlier output of export only"):
        export(npo, output=tmp_path / "release", overwrite=True)
    assert (tmp_path / "release/README.md").read_text() == "mine"
    export(npo, output=tmp_path / "other")
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(ExpungeError, match=r"also holds what is not of this output: notes.txt"):
        export(npo, output=tmp_path / "other", overwrite=True)
    (tmp_path / "other/notes.txt").unlink()
    made = export(npo, output=tmp_path / "other", overwrite=True, name="better")
    assert "# better" in (tmp_path / "other/README.md").read_text() and made.files == file_digests(tmp_path / "other")


def test_what_is_no_finished_run_of_unlearn(npo: Path, place: Path, tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"no manifest"):
        export(place / "start", output=tmp_path / "release")
    (npo / "config.json").write_text("{}")
    with pytest.raises(ExpungeError, match=r"were changed or removed since the run: config.json"):
        export(npo, output=tmp_path / "release")
    trained = Manifest(stage="train", arguments={}, results=Manifest.load(place / "runs/npo").results)
    shutil.rmtree(npo)
    shutil.copytree(place / "runs/npo", npo)
    trained.save(npo)
    with pytest.raises(ExpungeError, match=r"is a run of train"):
        export(npo, output=tmp_path / "release")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "name the folder"),
        ({"output": "x", "form": "onnx"}, "no form of a release is called 'onnx'"),
        ({"output": "x", "dtype": "f16"}, "dtype is the type of a GGUF file"),
        ({"output": "x", "form": "gguf", "dtype": "q9"}, "no type of GGUF weights is called 'q9'"),
        ({"output": "x", "form": "gguf", "check": "all"}, "no check of a release is called 'all'"),
        ({"output": "x", "form": "gguf", "rows": 0}, "rows must be at least 1"),
        ({"output": "x", "name": "user/npo"}, "name is that of a model, without folders"),
    ],
)
def test_wrong_settings(settings: dict[str, object], why: str, place: Path) -> None:
    with pytest.raises(ExpungeError, match=why):
        plan_export(place / "runs/npo", **settings)  # type: ignore[arg-type]


def test_evidence_of_another_model_is_refused(npo: Path, tmp_path: Path) -> None:
    made_run.evaluation("xxh3:other").save(tmp_path / "evaluation.json")
    with pytest.raises(ExpungeError, match=r"is of another model than the one in"):
        export(npo, output=tmp_path / "release", evaluation=tmp_path / "evaluation.json")
    with pytest.raises(ExpungeError, match=r"start is the evaluation of another model"):
        export(npo, output=tmp_path / "release", start=tmp_path / "evaluation.json")
    with pytest.raises(ExpungeError, match=r"attacked is of another model"):
        export(npo, output=tmp_path / "release", attacked=made_run.attacked())
    other = made_run.run(tmp_path / "other", data={"forget": {"content": "xxh3:others"}})
    with pytest.raises(ExpungeError, match=r"evaluation was measured on another forget set"):
        export(other, output=tmp_path / "release", evaluation=made_run.evaluation(forget_rouge=0.1))


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_the_hub_gets_what_is_in_the_folder(npo: Path, tmp_path: Path, hub: stand_in_hub.Hub) -> None:
    made = export(npo, output=tmp_path / "release", repo="user/npo")
    there = {name: data for name, data in hub.repositories["user/npo"].branches["main"].items() if name[0] != "."}
    assert there == {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    assert made.url is not None and made.url.startswith(f"{hub.url}/user/npo/commit/")
    before = list(tmp_path.iterdir())
    made = export(npo, repo="user/other")
    assert made.folder is None and list(tmp_path.iterdir()) == before and "user/other" in hub.repositories
    with pytest.raises(ExpungeError, match=r"holds files: README.md, config.json"):
        export(npo, repo="user/other")


def test_nothing_is_asked_of_the_hub_before_the_release_is_sound(
    npo: Path, tmp_path: Path, hub: stand_in_hub.Hub
) -> None:
    (npo / "config.json").write_text("{}")
    with pytest.raises(ExpungeError, match=r"were changed"):
        export(npo, output=tmp_path / "release", repo="user/npo")
    assert hub.asked == [] and hub.repositories == {}
