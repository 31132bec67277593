"""From a model or from records to an Evaluation: reuse, refusals, samples."""

import copy
import json
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from expunge.core.checks import ExpungeError
from expunge.core.lock import locked
from expunge.core.manifest import Manifest
from expunge.evaluation import evaluate as module
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.partial import Partial
from expunge.report.compared_models import gather
from expunge.results.foreign_logs import load_records
from expunge.results.measures import Evaluation
from expunge.results.texts import check_texts


def test_records_and_evaluation_are_saved_and_scored_again_without_a_model(model, tokenizer, corpus, tmp_path):
    found = evaluate(model, tokenizer, corpus, suite="tofu", output_dir=tmp_path / "a", label="mine")
    assert Evaluation.load(tmp_path / "a" / "evaluation.json") == found and found.label == "mine"
    again = evaluate(records=tmp_path / "a", suite="tofu")
    assert dict(again) == dict(found)
    assert again.about["inputs"] == found.about["inputs"] and again.samples == found.samples


def test_records_of_the_same_content_are_reused(model, tokenizer, corpus, tmp_path, monkeypatch):
    first = evaluate(model, tokenizer, corpus, output_dir=tmp_path)

    def never(*_args, **_kwargs):
        raise AssertionError("the model was used")

    monkeypatch.setattr(module, "collect", never)
    again = evaluate(model, tokenizer, corpus, output_dir=tmp_path, reference=load_records(tmp_path), batch_size=1)
    assert first["forget_quality"].value is None and again["forget_quality"].value == 1
    assert again["forget_probability"].per_example == first["forget_probability"].per_example


def test_records_of_other_content_are_kept_unless_told(model, other_model, tokenizer, corpus, tmp_path):
    before = evaluate(model, tokenizer, corpus, output_dir=tmp_path)
    for changed in (
        lambda **o: evaluate(other_model, tokenizer, corpus, output_dir=tmp_path, **o),
        lambda **o: evaluate(other_model, tokenizer, corpus, output_dir=tmp_path, max_length=300, **o),
    ):
        with pytest.raises(
            ExpungeError, match=r"holds records of something else\. Not the same: .*model.*overwrite=True"
        ):
            changed()
    assert Evaluation.load(tmp_path / "evaluation.json") == before
    after = evaluate(other_model, tokenizer, corpus, output_dir=tmp_path, overwrite=True)
    assert after["forget_probability"].value != before["forget_probability"].value
    assert load_records(tmp_path).manifest.inputs["model"] == after.about["inputs"]["model"]


def test_an_evaluation_from_records_is_not_overwritten_either(model, tokenizer, corpus, tmp_path):
    evaluate(model, tokenizer, corpus, output_dir=tmp_path)
    with pytest.raises(ExpungeError, match=r"evaluation.json is in use.*overwrite=True"):
        evaluate(records=tmp_path, suite="tofu", output_dir=tmp_path)
    assert evaluate(records=tmp_path, suite="tofu", output_dir=tmp_path, overwrite=True).suite == "tofu"


def test_an_evaluation_that_is_compared_stays_so_unless_told(model, other_model, tokenizer, corpus, tmp_path):
    evaluate(other_model, tokenizer, corpus, output_dir=tmp_path / "retain")
    compared = evaluate(model, tokenizer, corpus, output_dir=tmp_path / "a", reference=tmp_path / "retain")
    with pytest.raises(ExpungeError, match=r"\(reference\), which would be lost\. Name them again, reference=.*retain"):
        evaluate(model, tokenizer, corpus, output_dir=tmp_path / "a")
    assert Evaluation.load(tmp_path / "a" / "evaluation.json") == compared
    evaluate(model, tokenizer, corpus, output_dir=tmp_path / "a", reference=tmp_path / "retain")
    alone = evaluate(model, tokenizer, corpus, output_dir=tmp_path / "a", overwrite=True)
    assert alone["forget_quality"].value is None


def test_every_row_is_kept_with_its_texts_and_numbers(model, tokenizer, corpus, tmp_path):
    found = evaluate(model, tokenizer, corpus, suite="tofu", output_dir=tmp_path)
    n, m = len(corpus["forget"]), len(corpus["retain"])
    assert [s.split for s in found.samples][: n + m] == ["forget"] * n + ["retain"] * m
    assert [s.question for s in found.samples[:n]] == [e.prompt for e in corpus["forget"]]
    assert [s.answer for s in found.samples[n : n + m]] == [e.completion for e in corpus["retain"]]
    assert len({s.generation for s in found.samples}) > 1
    for split, rows in (("forget", found.samples[:n]), ("retain", found.samples[n : n + m])):
        assert not [name for row in rows for name in row.values if not name.startswith(split)]
        for name in ("probability", "extraction_strength", "rouge"):
            measure = found[f"{split}_{name}"]
            assert [row.values[f"{split}_{name}"] for row in rows] == list(measure.per_example)
        for row in rows:
            # The geometric mean over tokens is the row's probability, as far as four digits carry.
            assert np.prod(row.probabilities) ** (1 / len(row.probabilities)) == pytest.approx(
                row.values[f"{split}_probability"], rel=1e-3
            )
            assert len(row.ends) == len(row.probabilities) and row.ends[-1] == len(row.answer)
        assert f"{split}_truth_ratio" not in rows[0].values  # of other answers than the true one
    assert Evaluation.load(tmp_path / "evaluation.json").samples == found.samples
    assert evaluate(records=tmp_path, suite="tofu").samples == found.samples


def test_what_was_measured_is_written_down(model, tokenizer, corpus):
    reference = evaluate(model, tokenizer, corpus, suite="tofu").about
    assert reference["settings"]["dtype"] == "float32" and reference["settings"]["template"]["name"] == "auto"
    assert {"model", "tokenizer", "data.forget", "data.retain"} <= set(reference["inputs"])
    assert reference["results"]["rows"] > 0 and reference["suite"] == "tofu" and "torch" in reference["versions"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "a model with its tokenizer and a corpus, or records"),
        ({"model": True}, "a model with its tokenizer and a corpus, or records"),
        ({"model": True, "records": "x"}, "both were given"),
        ({"all": True, "suite": "tofo"}, r"no suite is called 'tofo'. Did you mean 'tofu'"),
        ({"all": True, "metrics": ["forget_roge"]}, r"Did you mean 'forget_rouge'"),
        ({"all": True, "metrics": ["forget_quality"]}, r"retain model.*expunge evaluate model=<retain model>"),
        ({"all": True, "reference": "nowhere"}, "no records at nowhere"),
    ],
)
def test_bad_requests_are_refused(model, tokenizer, corpus, arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "load_records", lambda path: load_records(path) if path != "x" else load_records(tmp_path)
    )
    given = dict(arguments)
    if given.pop("all", False):
        given |= {"model": True, "tokenizer": tokenizer, "corpus": corpus}
    if given.get("model"):
        given["model"] = model
    monkeypatch.setattr(module, "collect", None)  # nothing is computed before the request is known to be sound
    with pytest.raises(ExpungeError, match=message):
        evaluate(**given)


def test_the_public_names_work():
    import expunge

    assert expunge.evaluate is evaluate and expunge.load_records is load_records


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("writes", range(4))
def test_a_kill_at_any_write_leaves_no_records_of_another_model(
    model, other_model, tokenizer, corpus, tmp_path, monkeypatch, writes
):
    """Old records, new records or none, but never an evaluation of one model next to records of another."""
    evaluate(model, tokenizer, corpus, output_dir=tmp_path, metrics=["forget_probability"])
    done = 0

    def killing(wrapped):
        def call(path, *args, **kwargs):
            nonlocal done
            if "records.parquet" in path.name or "evaluation.json" in path.name:
                if done == writes:
                    raise Killed
                done += 1
            return wrapped(path, *args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, killing(getattr(Path, name)))
        with suppress(Killed):
            evaluate(
                other_model, tokenizer, corpus, output_dir=tmp_path, overwrite=True, metrics=["forget_probability"]
            )
    made = load_records(tmp_path).manifest.inputs
    if (tmp_path / "evaluation.json").is_file():
        assert gather(tmp_path)[0].about["inputs"] == made
    again = evaluate(
        other_model, tokenizer, corpus, output_dir=tmp_path, overwrite=True, metrics=["forget_probability"]
    )
    assert load_records(tmp_path).manifest.inputs == again.about["inputs"] == gather(tmp_path)[0].about["inputs"]


def test_an_output_has_one_writer(model, tokenizer, corpus, tmp_path, monkeypatch):
    refused = []

    def evaluated():
        with pytest.raises(ExpungeError, match=r"out is being written by process") as error:
            evaluate(model, tokenizer, corpus, output_dir=tmp_path / "out")
        refused.append(error)

    with locked(tmp_path / "out"):
        other = threading.Thread(target=evaluated)
        other.start()
        other.join()
    assert refused


def test_damaged_records_are_replaced_with_overwrite(model, tokenizer, corpus, tmp_path):
    found = evaluate(model, tokenizer, corpus, output_dir=tmp_path, metrics=["forget_probability"])
    whole = (tmp_path / "records.parquet").read_bytes()
    (tmp_path / "records.parquet").write_bytes(whole[:100])
    (tmp_path / ".records.parquet.1.partial").write_bytes(whole)  # of a run that was killed
    with pytest.raises(ExpungeError, match=r"damaged.*--overwrite"):
        evaluate(model, tokenizer, corpus, output_dir=tmp_path, metrics=["forget_probability"])
    again = evaluate(model, tokenizer, corpus, output_dir=tmp_path, overwrite=True, metrics=["forget_probability"])
    assert again["forget_probability"] == found["forget_probability"] and len(load_records(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "records.parquet"]


def test_a_damaged_part_is_computed_again(model, tokenizer, corpus, tmp_path):
    partial = Partial(tmp_path)
    partial.add("generations", [{"ids": [1, 2], "tokens": [3]}])
    partial.flush()
    partial.add("generations", [{"ids": [4], "tokens": [5]}])
    partial.flush()
    first, _ = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:50])
    assert [row["ids"] for row in partial.read("generations")] == [[4]]


def test_the_output_may_be_the_folder_of_the_run(model, tokenizer, corpus, tmp_path):
    manifest = Manifest(stage="unlearn", arguments={"method": "npo"}, git=None)
    manifest.save(tmp_path)
    evaluate(model, tokenizer, corpus, output_dir=tmp_path, metrics=["forget_probability"])
    assert Manifest.load(tmp_path) == manifest and gather(tmp_path) and len(load_records(tmp_path))


def test_the_output_is_not_a_folder_of_something_else(model, tokenizer, corpus, tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(ExpungeError, match=r"in use for something else; it holds notes\.md"):
        evaluate(model, tokenizer, corpus, output_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]


def test_the_output_is_not_a_file(model, tokenizer, corpus, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ExpungeError, match="out must be a folder, and is a file"):
        evaluate(model, tokenizer, corpus, output_dir=tmp_path / "out")


def test_an_evaluation_that_was_changed_is_not_believed(model, tokenizer, corpus, tmp_path):
    evaluate(model, tokenizer, corpus, output_dir=tmp_path, metrics=["forget_probability"])
    path = tmp_path / "evaluation.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told))  # another layout, the same content
    assert dict(Evaluation.load(path)) == dict(gather(tmp_path)[0])
    told["measures"]["forget_probability"]["value"] = 0.0
    path.write_text(json.dumps(told))
    with pytest.raises(ExpungeError, match="was changed since expunge wrote it"):
        gather(tmp_path)


def test_an_evaluation_without_records_is_replaced_only_on_demand(model, tokenizer, corpus, tmp_path):
    evaluate(model, tokenizer, corpus, output_dir=tmp_path / "a", metrics=["forget_probability"])
    evaluate(records=tmp_path / "a", output_dir=tmp_path / "b", metrics=["forget_probability"])
    before = (tmp_path / "b" / "evaluation.json").read_bytes()
    with pytest.raises(ExpungeError, match=r"evaluation\.json is in use"):
        evaluate(model, tokenizer, corpus, output_dir=tmp_path / "b")
    assert (tmp_path / "b" / "evaluation.json").read_bytes() == before
    evaluate(model, tokenizer, corpus, output_dir=tmp_path / "b", overwrite=True)


def test_a_log_goes_only_when_other_records_take_its_place(model, tokenizer, corpus, tmp_path):
    (log := tmp_path / "TOFU_EVAL.json").write_text("{}")
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    how = {"output_dir": tmp_path, "overwrite": True, "replaces": [log], "metrics": ["forget_probability"]}
    with pytest.raises(ExpungeError, match="is broken"):
        evaluate(broken, tokenizer, corpus, **how)
    assert log.exists()
    evaluate(model, tokenizer, corpus, **how)
    assert not log.exists()


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_is_at_least_one_row(model, tokenizer, corpus, size):
    with pytest.raises(ExpungeError, match="batch_size must be"):
        evaluate(model, tokenizer, corpus, batch_size=size)


def test_records_that_were_changed_are_not_believed(model, tokenizer, corpus, tmp_path):
    evaluate(model, tokenizer, corpus, output_dir=tmp_path, metrics=["forget_rouge"])
    path = tmp_path / "records.parquet"
    table = pq.read_table(path)
    said = pa.array(["I do not know."] * len(table), pa.string())
    changed = table.set_column(table.column_names.index("generation"), "generation", said)
    own = {name: value for name, value in pq.read_metadata(path).metadata.items() if name.startswith(b"expunge")}
    pq.write_table(changed.replace_schema_metadata(own), path)
    with pytest.raises(ExpungeError, match="its rows are not those that were written"):
        load_records(tmp_path)


def test_an_evaluation_of_other_records_is_not_saved_next_to_these(model, other_model, tokenizer, corpus, tmp_path):
    evaluate(model, tokenizer, corpus, output_dir=tmp_path / "a")
    evaluate(other_model, tokenizer, corpus, output_dir=tmp_path / "b")
    with pytest.raises(ExpungeError, match="holds records of something else than those that are measured"):
        evaluate(records=tmp_path / "a", output_dir=tmp_path / "b", overwrite=True)
    shutil.copy(tmp_path / "a" / "evaluation.json", tmp_path / "b")
    with pytest.raises(ExpungeError, match="is not of the records next to it"):
        gather(tmp_path / "b")


@pytest.mark.parametrize("texts", ["hash", "drop"])
def test_the_output_holds_no_texts_where_none_are_wanted(model, tokenizer, corpus, tmp_path, texts):
    found = evaluate(model, tokenizer, corpus, output_dir=tmp_path, texts=texts)
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for example in corpus["forget"]:
        assert example.prompt.encode() not in held and example.completion.encode() not in held
    stored = Evaluation.load(tmp_path / "evaluation.json")
    assert dict(stored) == dict(found) and found.samples and found["forget_rouge"].value is not None
    assert [s.question[:7] for s in stored.samples] == ["sha256:" if texts == "hash" else ""] * len(found.samples)
    assert [s.values for s in stored.samples] == [s.values for s in found.samples]
    assert not any(s.ends for s in stored.samples) and all(s.ends for s in found.samples)
    rescored = evaluate(records=tmp_path)
    assert [(s.question, s.probabilities) for s in rescored.samples if s.split == "forget"] == [
        (s.question, s.probabilities) for s in stored.samples if s.split == "forget"
    ]
    assert rescored["forget_probability"].value == found["forget_probability"].value
    assert f"saved without texts (texts={texts})" in rescored["forget_rouge"].note
    # Made anew, since records without texts give no ROUGE.
    again = evaluate(model, tokenizer, corpus, output_dir=tmp_path, texts=texts)
    assert again["forget_rouge"] == found["forget_rouge"]
    with pytest.raises(ExpungeError, match="texts must be keep, hash, drop; got 'none'"):
        check_texts("none")
