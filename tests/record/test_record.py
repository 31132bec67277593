"""A record of a run, and what verify finds: every file, the record, the chain, the scope."""

import json
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

import expunge
import made_run
import zoo
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, file_digest
from expunge.core.output import check_output
from expunge.data.corpus import Corpus
from expunge.record.ledger import ledger
from expunge.record.statement import read_statement
from expunge.results.attacked import Attacked
from expunge.results.places import IN_RUNS, RUNS

HOW: dict[str, Any] = {"request": "REQ-17", "corpus": made_run.CORPUS}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_run.run(tmp_path / "runs" / "npo")


def wrong(run: Path, **how: Any) -> list[str]:
    return [check.what for check in expunge.verify(run, **how).wrong]


def flip(path: Path, at: int = 0) -> bytes:
    """Flip one bit of a file; its content before."""
    whole = path.read_bytes()
    at %= len(whole)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    return whole


def test_a_record_is_about_every_file_of_the_run_and_verifies(run: Path) -> None:
    seen = {"evaluation": made_run.evaluation(forget_repetition=0.1), "attacked": made_run.attacked()}
    made = expunge.record(run, **HOW, **seen, date="2026-01-31", ground="GDPR Art. 17(1)(b)")
    assert made.verdict == "ERASED (against what was tried)" and made.reasons == ()
    assert made.statement.files == {name: file_digest(run / name) for name in (*made_run.FILES, "manifest.json")}
    found = expunge.verify(run)
    assert found.holds and not found.wrong
    results = {check.what: check.result for check in found.checks}
    assert results["erasure.json: seal"] == results["chain"] == "right" and results["signature"] == "not checked"
    assert str(found) == "Everything matches; not checked: signature."


def test_one_flipped_byte_in_any_file_is_found_and_named(run: Path) -> None:
    expunge.record(run, **HOW)
    for name in (*made_run.FILES, "manifest.json"):
        for at in (0, -1):
            before = flip(run / name, at)
            assert wrong(run) == [name]
            (run / name).write_bytes(before)
    assert wrong(run) == []


def test_one_flipped_byte_in_the_record_is_found(run: Path) -> None:
    expunge.record(run, **HOW)
    size = (run / "erasure.json").stat().st_size
    for at in range(0, size, size // 60):
        before = flip(run / "erasure.json", at)
        try:
            assert "erasure.json: seal" in wrong(run), at
        except ExpungeError:
            pass  # it can no longer be read at all, and the error says so
        (run / "erasure.json").write_bytes(before)


def test_a_missing_and_an_added_file_are_found(run: Path) -> None:
    expunge.record(run, **HOW)
    (run / "adapter_config.json").write_text("{}")
    (run / "config.json").unlink()
    assert wrong(run) == ["config.json", "adapter_config.json"]


def test_what_expunge_measures_into_a_run_changes_neither_manifest_nor_record(run: Path) -> None:
    manifest = Manifest.load(run)
    made = expunge.record(run, **HOW)
    made_run.evaluation(forget_probability=0.1).save(run / "evaluation.json")
    made_run.attacked().save(run)
    found = expunge.verify(run)
    assert found.holds and Manifest.load(run) == manifest and made.statement.files["manifest.json"]
    left = {check.what for check in found.checks if check.result == "not checked"}
    assert left == {"signature", "evaluation.json", "attacked.json"}


def test_an_evaluation_into_a_run_s_folder_leaves_the_record_right(run: Path) -> None:
    expunge.record(run, **HOW)
    corpus, model = zoo.corpus(), zoo.tiny_model()
    expunge.evaluate(model, zoo.tokenizer(), corpus, output_dir=run, metrics=["forget_probability"])
    assert (run / "records.parquet").is_file() and expunge.verify(run).holds


def test_a_record_is_not_replaced_unasked_nor_lost_with_its_run(run: Path) -> None:
    first = expunge.record(run, **HOW)
    with pytest.raises(ExpungeError, match=r"erasure\.json is in use"):
        expunge.record(run, **HOW)
    again = expunge.record(run, **{**HOW, "request": "REQ-18"}, overwrite=True)
    assert again.statement.digest != first.statement.digest and expunge.verify(run).holds
    with pytest.raises(ExpungeError, match=r"also holds what is not of this output: erasure\.json"):
        check_output(run, overwrite=True, stages=RUNS, names=IN_RUNS)


def test_the_salt_lies_apart_and_proves_that_rows_were_in_scope(run: Path) -> None:
    made = expunge.record(run, **HOW)
    assert made.salt == run.with_name("npo.salt") and stat.S_IMODE(made.salt.stat().st_mode) == 0o600
    salt = made.salt.read_text().strip()
    assert not [file for file in run.rglob("*") if file.is_file() and salt in file.read_text(errors="replace")]
    forget, retain = made_run.CORPUS["forget"], made_run.CORPUS["retain"]
    assert wrong(run, salt=made.salt, corpus=Corpus({"forget": forget[1:3]})) == []
    found = expunge.verify(run, salt=made.salt, corpus=Corpus({"forget": (forget[0], retain[0])}))
    assert [check.note for check in found.wrong] == ["1 of 2 rows were not in it: row 2"]
    other = expunge.record(run, **HOW, overwrite=True, salt=run.with_name("other.salt"))
    found = expunge.verify(run, salt=made.salt, corpus=Corpus({"forget": forget}))
    assert [check.note for check in found.wrong] == ["the salt is not the one that the record was made with"]
    assert wrong(run, salt=other.salt, corpus=Corpus({"forget": forget})) == []
    with pytest.raises(ExpungeError, match="give both"):
        expunge.verify(run, salt=made.salt)


def test_no_text_of_the_rows_is_in_the_run_folder(run: Path) -> None:
    expunge.record(run, **HOW, attacked=made_run.attacked({"plain": (1.0,) * 6}))
    said = "".join(file.read_text(errors="replace") for file in run.rglob("*") if file.is_file())
    assert not [e for e in made_run.CORPUS["forget"] if e.prompt in said or e.completion in said]


def test_the_rows_are_read_from_where_the_run_read_them(tmp_path: Path) -> None:
    rows = [{"question": e.prompt, "answer": e.completion} for e in made_run.CORPUS["forget"]]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = expunge.load_corpus("files", forget=str(tmp_path / "forget.jsonl"))
    run = made_run.run(tmp_path / "npo", corpus=dict(corpus.origin), data=corpus.about())
    assert expunge.record(run, request="REQ-1").predicate["scope"]["rows"] == 6
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(ExpungeError, match="the forget set is not the one that the run was to forget"):
        expunge.record(run, request="REQ-1", overwrite=True)


def test_evaluations_are_read_from_their_folders_and_named_by_their_digests(run: Path) -> None:
    runs = run.parent
    after = made_run.evaluation(retain_probability=0.4).save(runs / "npo-records" / "evaluation.json")
    before = made_run.evaluation(made_run.START, forget_probability=0.95, retain_probability=0.8)
    before.save(runs / "start-records" / "evaluation.json")
    attacked = made_run.attacked().save(runs / "npo-attacked")
    told = expunge.record(run, **HOW, start=runs / "start-records", attacked=runs / "npo-attacked").predicate
    assert told["utility"]["kept"] == 0.5 and told["baseline"]["value"] == 0.95
    assert told["verdict"]["text"] == "RESIDUAL"
    assert told["sources"]["attacked"] == file_digest(attacked) and told["sources"]["evaluation"] == file_digest(after)


def test_what_lies_beside_the_run_and_its_start_model_is_found(tmp_path: Path) -> None:
    start = tmp_path / "start"
    run = made_run.run(tmp_path / "npo", start_model=str(start))
    start.mkdir()
    attacked = made_run.attacked().save(tmp_path / "npo-attacked")
    before = made_run.evaluation(made_run.START, forget_probability=0.95)
    file = before.save(tmp_path / "start-records" / "evaluation.json")
    sources = expunge.record(run, **HOW).predicate["sources"]
    assert sources["attacked"] == file_digest(attacked) and sources["start"] == file_digest(file)
    made_run.evaluation("xxh3:another", forget_probability=0.95).save(file.parent / "evaluation.json")
    assert expunge.record(run, **HOW, overwrite=True).predicate["sources"]["start"] == "not given"
    with pytest.raises(ExpungeError, match=f"Evaluate {start}"):
        expunge.record(run, **HOW, start=file, overwrite=True)
    made_run.attacked().save(tmp_path / "npo-records")
    with pytest.raises(ExpungeError, match=r"several results of attacks lie beside .*npo-records and .*npo-attacked"):
        expunge.record(run, **HOW, overwrite=True)
    expunge.record(run, **HOW, attacked=tmp_path / "npo-attacked", overwrite=True)


def test_what_the_evaluation_was_compared_with_is_found_and_its_faults_are_seen(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "npo", start_model=str(tmp_path / "gone"))
    before = made_run.evaluation(made_run.START, forget_probability=0.95).save(tmp_path / "before" / "evaluation.json")
    made_run.evaluation("xxh3:retain", forget_probability=0.5).save(tmp_path / "never" / "evaluation.json")
    after = made_run.evaluation(reference=True, forget_probability=0.01)
    paths = {"start": str(tmp_path / "before"), "reference": str(tmp_path / "never")}
    replace(after, about={**after.about, "paths": paths}).save(tmp_path / "npo-records" / "evaluation.json")
    told = expunge.record(run, **HOW).predicate
    assert told["sources"]["start"] == file_digest(before)
    assert told["faults"] == ["it is over-unlearned (forget probability 0.01; retain model 0.5)"]


def test_what_does_not_fit_is_not_taken_and_that_is_said(tmp_path: Path) -> None:
    start = tmp_path / "start"
    run = made_run.run(tmp_path / "npo", start_model=str(start))
    file = tmp_path / "start-records" / "evaluation.json"
    for made, why in (
        (made_run.evaluation("xxh3:other"), "not of the start model's weights"),
        (made_run.evaluation(made_run.START), ""),
    ):
        made.save(file)
        notes = expunge.record(run, **HOW, overwrite=True).notes
        assert notes == ((f"{file} was not taken: it is {why}.",) if why else ())
    other = made_run.evaluation(made_run.START)
    about = {**other.about, "inputs": {**other.about["inputs"], "data.forget": "xxh3:others"}}
    replace(other, about=about).save(file)
    assert expunge.record(run, **HOW, overwrite=True).notes == (f"{file} was not taken: it is of another forget set.",)
    assert str(file) not in (run / "erasure.json").read_text()  # which names no folder of this machine for it


def test_the_files_of_the_start_model_have_their_digests(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model.safetensors").write_bytes(b"weights")
    run = made_run.run(tmp_path / "npo", start_model=str(tmp_path / "start"))
    files = expunge.record(run, **HOW).predicate["start_model"]["files"]
    assert files == {"model.safetensors": file_digest(tmp_path / "start" / "model.safetensors")}
    gone = made_run.run(tmp_path / "other", start_model=str(tmp_path / "gone" / "model"))
    assert expunge.record(gone, **HOW).predicate["start_model"]["files"] == "not given"


def test_derived_models_are_named_with_their_digests(run: Path) -> None:
    gguf = run.with_name("npo-q4.gguf")
    gguf.write_bytes(b"GGUF")
    told = expunge.record(run, **HOW, derivatives=[gguf]).predicate
    assert told["lineage"]["derivatives"] == {"npo-q4.gguf": file_digest(gguf)}  # no place of this machine
    (run.parent / "other").mkdir()
    twin = Path(shutil.copy(gguf, run.parent / "other"))
    with pytest.raises(ExpungeError, match=r"names two that are called npo-q4\.gguf"):
        expunge.record(run, **HOW, derivatives=[gguf, twin], overwrite=True)


def test_a_record_names_no_place_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "start").mkdir(parents=True)
    run = made_run.run(tmp_path / "npo", start_model=str(tmp_path / "models" / "start"))
    manifest = Manifest.load(run)
    replace(manifest, arguments={**manifest.arguments, "method": {"path": str(tmp_path / "p.txt")}}).save(run)
    told = expunge.record(run, **HOW, attacked=made_run.attacked()).predicate
    assert told["start_model"]["name"] == "start" and told["method"]["settings"]["method"] == {"path": "p.txt"}
    assert str(tmp_path) not in (run / "erasure.json").read_text()
    monkeypatch.chdir(tmp_path)
    other = made_run.run(tmp_path / "other", start_model="models/start")  # a name on a hub, but for the folder here
    told = expunge.record(other, **HOW, derivatives=["npo"]).predicate
    assert told["start_model"]["name"] == "start" and [*told["lineage"]["derivatives"]] == ["npo/model.safetensors"]
    gone = made_run.run(tmp_path / "gone", start_model="clients/someone/model")  # moved away, or seen from elsewhere
    assert expunge.record(gone, **HOW).predicate["start_model"]["name"] == "model"
    hub = made_run.run(tmp_path / "hub", start_model="user/model")
    monkeypatch.setattr("expunge.models.cached.try_to_load_from_cache", lambda *_: "/cache/config.json")
    assert expunge.record(hub, **HOW).predicate["start_model"]["name"] == "user/model"


def test_an_adapter_that_the_start_model_brought_is_attacked_under_another_fingerprint(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "npo")
    manifest = Manifest.load(run)
    replace(manifest, inputs={**manifest.inputs, "start_adapter": "xxh3:adapter"}).save(run)
    how = {**HOW, "evaluation": made_run.evaluation(forget_repetition=0.1)}
    made = expunge.record(run, **how, attacked=made_run.attacked(model="xxh3:merged"))
    assert made.verdict == "RESIDUAL" and "could not be compared" in made.reasons[0]
    assert expunge.record(run, **how, attacked=made_run.attacked(), overwrite=True).reasons == ()


def _controlled(control: str | None) -> Attacked:
    """Attacks that were compared with the model of this fingerprint."""
    found = made_run.attacked()
    inputs = {name: value for name, value in found.inputs.items() if name != "control"}
    return replace(found, inputs=inputs | ({} if control is None else {"control": control}))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no run": (lambda run: expunge.record(run.parent, **HOW), "no manifest in"),
    "a changed file": (
        lambda run: (flip(run / "config.json"), expunge.record(run, **HOW)),
        r"changed or removed since the run: config\.json\.",
    ),
    "no forget set": (lambda run: expunge.record(run, request="R"), r"name it, forget='forget.jsonl'"),
    "other rows": (
        lambda run: expunge.record(run, request="R", corpus=zoo.corpus(5)),
        "not the one that the run was to forget",
    ),
    "an attack on another model": (
        lambda run: expunge.record(run, **HOW, attacked=made_run.attacked(model="xxh3:other")),
        "attacked is of another model",
    ),
    "an attack on other facts": (
        lambda run: expunge.record(run, **HOW, attacked=made_run.attacked(corpus=zoo.corpus(5))),
        "attacked was measured on another forget set",
    ),
    "the start model as control": (
        lambda run: expunge.record(run, **HOW, attacked=_controlled(made_run.START)),
        "the control of the attacks is the model that the run began with",
    ),
    "the attacked model as control": (
        lambda run: expunge.record(run, **HOW, attacked=_controlled(made_run.RESULT)),
        "the control of the attacks is the model that was attacked",
    ),
    "a control that nobody knows": (
        lambda run: expunge.record(run, **HOW, attacked=_controlled(None)),
        "does not say which model was its control",
    ),
    "an evaluation of another model": (
        lambda run: expunge.record(run, **HOW, evaluation=made_run.evaluation("xxh3:other", forget_rouge=0.1)),
        "is of another model than the one in",
    ),
    "another start model": (
        lambda run: expunge.record(run, **HOW, start=made_run.evaluation("xxh3:other", forget_rouge=0.1)),
        "start is the evaluation of another model",
    ),
    "no evaluation": (lambda run: expunge.record(run, **HOW, start=run.parent / "none"), "no evaluation at"),
    "no attack": (lambda run: expunge.record(run, **HOW, attacked=run), "no result of an attack"),
    "a date that is none": (lambda run: expunge.record(run, **HOW, date="31.1.2026"), "date must be a day"),
    "an unknown policy": (lambda run: expunge.record(run, **HOW, policy="strict"), "no policy is called 'strict'"),
    "no derived model": (lambda run: expunge.record(run, **HOW, derivatives=["none"]), "no derived model at 'none'"),
    "no predecessor": (lambda run: expunge.record(run, **HOW, predecessor=run.parent), "no erasure record at"),
    "no key": (lambda run: expunge.record(run, **HOW, key=run.parent / "none.pem"), "no key at"),
    "a request that is no text": (lambda run: expunge.record(run, **{**HOW, "request": 5}), "request must be text"),
    "a request without a name": (lambda run: expunge.record(run, **{**HOW, "request": " "}), "request must name"),
    "nothing to verify": (lambda run: expunge.verify(run), "no erasure record at"),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(run: Path, call: tuple[Callable[[Path], Any], str]) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ExpungeError, match=call[1]):
            call[0](run)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert not (run / "erasure.json").exists() and [path.name for path in run.parent.iterdir()] == ["npo"]


def test_an_unfinished_run_has_no_record(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "npo", finished=False)
    with pytest.raises(ExpungeError, match="holds no finished run"):
        expunge.record(run, **HOW)


@pytest.fixture
def line(tmp_path: Path) -> list[Path]:
    """Three runs, each of which began with the result of the one before, with their records."""
    models, made = ["xxh3:0", "xxh3:1", "xxh3:2", "xxh3:3"], []
    for number, name in enumerate(("first", "second", "third")):
        before = str(made[-1]) if made else "start"
        run = made_run.run(tmp_path / name, start=models[number], result=models[number + 1], start_model=before)
        expunge.record(run, request=f"REQ-{number}", corpus=made_run.CORPUS, date=f"2026-01-0{3 - number}")
        made.append(run)
    return made


def test_records_of_a_model_line_hold_the_digest_of_the_one_before(line: list[Path]) -> None:
    entries = ledger(line[0].parent)
    assert [entry.folder for entry in entries] == line  # in order of the chain, whatever their dates
    assert [entry.state for entry in entries] == ["first", "holds", "holds"]
    for earlier, later in pairwise(entries):
        assert later.statement.predicate["lineage"]["predecessor"]["digest"] == earlier.statement.digest
    checks = {check.what: check for check in expunge.verify(line[2]).checks}
    assert (checks["chain"].result, checks["chain"].note) == ("right", "3 records")
    told = entries[2].statement.predicate
    assert told["lineage"]["predecessor"]["requests"] == ["REQ-0", "REQ-1"]
    assert told["limits"][-1] == (
        "Rows of the earlier request REQ-0 were not all attacked again: 6 of its 6 rows had no value in any attack."
    )


def test_a_record_that_is_gone_from_its_run_folder_breaks_the_chain(line: list[Path]) -> None:
    (line[1] / "erasure.json").unlink()
    found = expunge.verify(line[2])
    assert [check.note for check in found.wrong] == ["the record of REQ-1 (second) is gone from its run folder"]


def test_a_link_to_a_file_elsewhere_is_told(run: Path) -> None:
    expunge.record(run, **HOW)
    moved = (run / "config.json").rename(run.parent / "config.json")
    (run / "config.json").symlink_to(moved)
    notes = {check.what: (check.result, check.note) for check in expunge.verify(run).checks}
    assert (
        notes["config.json"] == ("right", "a link to a file outside the folder") and notes["model.safetensors"][1] == ""
    )


def test_a_record_that_another_one_follows_is_not_replaced(line: list[Path]) -> None:
    before = (line[1] / "erasure.json").read_bytes()
    with pytest.raises(ExpungeError, match=r"the one before that of REQ-2 \(third\).* would break the chain"):
        expunge.record(line[1], request="REQ-1b", corpus=made_run.CORPUS, overwrite=True)
    assert (line[1] / "erasure.json").read_bytes() == before
    expunge.record(line[2], request="REQ-2b", corpus=made_run.CORPUS, overwrite=True)  # no record follows the last
    assert expunge.verify(line[2]).holds


def test_the_record_before_is_found_beside_the_run_where_paths_are_no_longer_right(
    line: list[Path], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for run in line:
        run.rename(moved / run.name)
        run.with_name(f"{run.name}.salt").rename(moved / f"{run.name}.salt")
    expunge.record(moved / "third", request="REQ-2", corpus=made_run.CORPUS, overwrite=True)
    told = expunge.verify(moved / "third")
    assert told.holds and {c.what: c.note for c in told.checks}["chain"] == "3 records"
    requests = read_statement(moved / "third").predicate["earlier_requests"]
    assert [one["request"] for one in requests] == ["REQ-0", "REQ-1"]


def test_a_changed_record_breaks_the_chain_after_it(line: list[Path]) -> None:
    (line[0] / "erasure.json").unlink()
    expunge.record(line[0], request="REQ-0b", corpus=made_run.CORPUS)  # sound by itself
    states = {entry.folder.name: entry.state for entry in ledger(line[0].parent)}
    assert states == {"first": "first", "second": "broken", "third": "holds"}
    assert expunge.verify(line[0]).holds
    found = expunge.verify(line[2])
    assert [check.note for check in found.wrong] == ["the record of REQ-0 (first) was changed"]
    flip(line[1] / "erasure.json", 40)
    assert [entry.sound for entry in ledger(line[0].parent)].count(False) == 2


def test_an_earlier_record_that_is_elsewhere_is_not_checked_unless_its_folder_is_named(line: list[Path]) -> None:
    (line[0].parent / "archive").mkdir()
    line[0].rename(line[0].parent / "archive" / "first")
    found = expunge.verify(line[1])
    assert found.holds and "chain" in str(found)
    assert expunge.verify(line[1], records=line[0].parent / "archive").checks[-1].result == "right"
    assert wrong(line[1], records=line[2]) == ["chain"]
    assert wrong(line[2], records=line[0].parent / "archive") == ["chain"]  # which must hold all of them


def test_a_record_of_another_model_is_no_predecessor(line: list[Path], tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "other", start="xxh3:elsewhere")
    with pytest.raises(ExpungeError, match="is about another model than the one that this run began with"):
        expunge.record(run, **HOW, predecessor=line[0])
    flip(line[0] / "model.safetensors")  # the record itself is what counts here
    assert expunge.record(run, **HOW).predicate["lineage"]["predecessor"] is None


class TestSigned:
    @pytest.fixture(autouse=True)
    def _extra(self) -> None:
        pytest.importorskip("securesystemslib", reason="needs the extra `record`")
        pytest.importorskip("cryptography", reason="needs the extra `record`")

    @pytest.fixture
    def keys(self, tmp_path: Path) -> tuple[Path, Path]:
        return made_run.keys(tmp_path)

    def test_a_signed_record_verifies_under_its_key(self, run: Path, keys: tuple[Path, Path]) -> None:
        expunge.record(run, **HOW, key=keys[0])
        assert expunge.verify(run, key=keys[1]).holds
        check = next(check for check in expunge.verify(run).checks if check.what == "signature")
        assert check.result == "right" and "name one that you trust" in check.note

    def test_tampering_is_found(self, run: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
        expunge.record(run, **HOW, key=keys[0])
        before = flip(run / "erasure.dsse.json", 200)
        assert wrong(run) == ["signature"]
        (run / "erasure.dsse.json").unlink()
        assert wrong(run) == ["signature"]
        (run / "erasure.dsse.json").write_bytes(before)
        assert wrong(run, key=made_run.keys(tmp_path, name="other")[1]) == ["signature"]
        # Made again by someone without the key, the record is sound by itself, and not signed.
        expunge.record(run, **{**HOW, "request": "REQ-99"}, overwrite=True)
        assert not (run / "erasure.dsse.json").exists()
        assert wrong(run) == [] and wrong(run, key=keys[1]) == ["signature"]

    def test_a_signature_of_an_earlier_record_does_not_serve(self, run: Path, keys: tuple[Path, Path]) -> None:
        expunge.record(run, **HOW, key=keys[0])
        signature = (run / "erasure.dsse.json").read_bytes()
        expunge.record(run, **{**HOW, "request": "REQ-99"}, key=keys[0], overwrite=True)
        (run / "erasure.dsse.json").write_bytes(signature)
        assert wrong(run, key=keys[1]) == ["signature"]


def test_without_the_extra_records_are_unsigned_and_say_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("securesystemslib", "securesystemslib.signer", "securesystemslib.dsse", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "key.pem").write_text("a key")
    with pytest.raises(ExpungeError, match=r"pip install 'expunge\[record\]'"):
        expunge.record(run, **HOW, key=tmp_path / "key.pem")
    assert expunge.record(run, **HOW).predicate["signer"] is None and expunge.verify(run).holds


def test_reading_a_record_of_changed_fields_is_an_error_not_a_fault(run: Path) -> None:
    from expunge.record.statement import read_statement, statement, text_of

    expunge.record(run, **HOW)
    told = dict(read_statement(run).predicate)
    del told["lineage"], told["seal"]
    (run / "erasure.json").write_text(text_of(statement(read_statement(run).files, told)))
    with pytest.raises(ExpungeError, match="its fields are others"):
        expunge.verify(run)


def test_the_stage_may_be_training_too(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "retrained", data={"retain": {"rows": 10}})
    replace(Manifest.load(run), stage="train").save(run)
    assert expunge.record(run, **HOW).predicate["method"]["stage"] == "train"


@pytest.mark.parametrize("field", ["lineage", "request", "verdict"])
@pytest.mark.parametrize("value", [None, [], "text", {}, {"predecessor": {"digest": [1], "run": "x", "requests": []}}])
def test_one_record_of_changed_fields_hides_no_other(line: list[Path], field: str, value: Any) -> None:
    changed = line[2] / "erasure.json"
    content = json.loads(changed.read_text())
    content["predicate"][field] = value
    changed.write_text(json.dumps(content))
    entries = {entry.folder: entry for entry in ledger(line[0].parent)}
    assert [entries[run].sound for run in line] == [True, True, False]
    assert expunge.verify(line[1]).holds
