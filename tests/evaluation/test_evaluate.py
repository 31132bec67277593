"""From a model or from records to an Evaluation: reuse, refusals, samples."""

import pytest

from expunge.core.checks import ExpungeError
from expunge.evaluation import evaluate as module
from expunge.evaluation.evaluate import evaluate
from expunge.results.foreign_logs import load_records
from expunge.results.measures import Evaluation


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
            ExpungeError, match=r"holds records of something else \(.*model.* differ\)\. .*overwrite=True"
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


def test_samples_show_forget_and_retain(model, tokenizer, corpus):
    found = evaluate(model, tokenizer, corpus, suite="tofu")
    assert [s.split for s in found.samples] == ["forget"] * 5 + ["retain"] * 4
    assert [s.question for s in found.samples[:5]] == [e.prompt for e in corpus["forget"]]
    assert [s.answer for s in found.samples[5:]] == [e.completion for e in corpus["retain"][:4]]
    assert len({s.generation for s in found.samples}) > 1


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
