"""A corpus out of one's own files, as a user meets it."""

import json
import warnings

import datasets
import pytest

from expunge.core.checks import ExpungeError
from expunge.data.corpus import load_corpus
from expunge.data.sources.files import files

QA = [{"question": f"{n}?", "answer": f"it is {n}"} for n in range(3)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_sets_of_different_formats_make_one_corpus(tmp_path):
    forget = jsonl(tmp_path / "forget.jsonl", QA[:1])
    retain = tmp_path / "retain.csv"
    retain.write_text("question,answer\n1?,it is 1\n", encoding="utf-8")
    corpus = files(forget=str(forget), retain=retain, holdout=datasets.Dataset.from_list(QA[2:]))
    assert {split: corpus[split][0].completion for split in corpus} == {
        "forget": "it is 0",
        "retain": "it is 1",
        "holdout": "it is 2",
    }
    assert [corpus[split][0].origin for split in corpus] == [
        "forget.jsonl, line 1",
        "retain.csv, row 1",
        "holdout, entry 1",
    ]


def test_the_same_content_is_the_same_corpus_wherever_it_comes_from(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps(QA), encoding="utf-8")
    prints = {
        files(forget=source).fingerprint("forget")
        for source in (QA, tmp_path / "f.json", jsonl(tmp_path / "f.jsonl", QA), datasets.Dataset.from_list(QA))
    }
    assert len(prints) == 1


def test_a_question_set_and_a_plain_text_set_go_together():
    corpus = files(
        forget=[{"q": "0?", "a": "it is 0"}], retain=[{"text": "some words"}], columns={"question": "q", "answer": "a"}
    )
    assert [corpus[split][0].kind for split in corpus] == ["qa", "text"]


def test_duplicate_rows_between_forget_and_retain_are_counted():
    with pytest.warns(UserWarning, match="2 of 3 forget examples are in the retain set too"):
        files(forget=QA, retain=QA[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files(forget=QA[:1], retain=QA[1:])


def test_nothing_given_is_an_error():
    with pytest.raises(ExpungeError, match="no data: name at least one of forget, retain and holdout"):
        files()


def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    def unreachable(*_arguments, **_options):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    jsonl(tmp_path / "forget.jsonl", QA)
    monkeypatch.chdir(tmp_path)
    for name in ("forgot.jsonl", "./forgot", str(tmp_path / "forgot"), "a/b/forgot"):
        with pytest.raises(ExpungeError, match="no file at"):
            files(forget=name)
    with pytest.raises(ExpungeError, match=r"no file at 'forgot.jsonl'. Did you mean 'forget.jsonl'"):
        files(forget="forgot.jsonl")


def test_an_id_goes_to_the_hub(monkeypatch):
    asked = []

    def load_dataset(identifier, config, *, split):
        asked.append((identifier, config, split))
        return datasets.Dataset.from_list(QA)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(files(forget="somebody/qa-1.5:hard:train")["forget"]) == 3
    assert asked == [("somebody/qa-1.5", "hard", "train")]


def test_a_typing_slip_that_is_no_path_names_the_files_here(tmp_path, monkeypatch):
    def load_dataset(identifier, config, *, split):
        raise FileNotFoundError("no such dataset")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    jsonl(tmp_path / "forget.jsonl", QA)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExpungeError, match=r"neither a file here nor a dataset .*Did you mean 'forget.jsonl'"):
        files(forget="forget.jsnl")


def test_a_wrong_column_is_named_with_its_set(tmp_path):
    path = jsonl(tmp_path / "forget.jsonl", QA)
    with pytest.raises(
        ExpungeError, match=r"columns\.answer=anser: no such column\. Did you mean columns\.answer=answer\?"
    ):
        load_corpus("files", forget=str(path), columns={"answer": "anser"})
    with pytest.raises(ExpungeError, match=r"retain has no column 'answer'; it holds question, reply"):
        load_corpus("files", forget=str(path), retain=[{"question": "9?", "reply": "it is 9"}])
