"""A corpus out of one's own files, as a user meets it."""

import gzip
import json
import warnings

import datasets
import pytest

from expunge.core.checks import ExpungeError
from expunge.core.manifest import file_digest
from expunge.core.surface import command_line
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


def test_several_files_are_read_one_after_the_other(tmp_path):
    first, second = jsonl(tmp_path / "first.jsonl", QA[:1]), jsonl(tmp_path / "second.jsonl", QA[1:])
    corpus = files(forget=f"{second}, {first}", retain=QA)
    assert [row.completion for row in corpus["forget"]] == ["it is 1", "it is 2", "it is 0"]
    assert corpus["forget"][-1].origin == "first.jsonl, line 1"
    assert corpus.files["forget"] == f"{file_digest(second)}+{file_digest(first)}"
    comma = jsonl(tmp_path / "a,b.jsonl", QA)  # a file whose name holds a comma is one file
    assert len(files(forget=str(comma))["forget"]) == 3
    assert len(files(forget=f"{first},{comma}")["forget"]) == len(files(forget=f"{comma},{first}")["forget"]) == 4
    for wrong in (f"{first},", f",{first}", f"{first},,{second}"):  # an empty name would be the current folder
        with pytest.raises(ExpungeError, match="names nothing between two commas"):
            files(forget=wrong)
    with pytest.raises(ExpungeError, match=r"no file at '.*third\.jsonl'"):
        files(forget=f"{first},{tmp_path / 'third.jsonl'}")


def test_a_question_set_and_a_plain_text_set_go_together():
    corpus = files(
        forget=[{"q": "0?", "a": "it is 0"}], retain=[{"text": "some words"}], columns={"question": "q", "answer": "a"}
    )
    assert [corpus[split][0].kind for split in corpus] == ["qa", "text"]


def test_duplicate_rows_between_forget_and_retain_are_counted():
    with pytest.warns(UserWarning, match=r"2 of 3 forget examples are in the retain set too .* retain, entry 1, 2\."):
        load_corpus("files", forget=QA, retain=QA[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_corpus("files", forget=QA[:1], retain=QA[1:])


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
        ExpungeError, match=r"columns={'answer': 'anser'}: no such column\. Did you mean columns={'answer': 'answer'}\?"
    ):
        load_corpus("files", forget=str(path), columns={"answer": "anser"})
    with pytest.raises(ExpungeError, match=r"retain has no column 'answer'; it holds question, reply"):
        load_corpus("files", forget=str(path), retain=[{"question": "9?", "reply": "it is 9"}])


def test_each_set_may_have_columns_of_its_own(tmp_path):
    sets = {
        "forget": jsonl(tmp_path / "f.jsonl", [{"q": "0?", "a": "it is 0"}]),
        "retain": jsonl(tmp_path / "r.jsonl", [{"q": "1?", "a": "it is 1"}]),
        "holdout": jsonl(tmp_path / "h.jsonl", [{"asked": "2?", "a": "it is 2"}]),
    }
    columns = {"question": "q", "answer": "a"}
    with (
        command_line(),
        pytest.raises(
            ExpungeError, match=r"holdout .* has no column 'question'; .* 'columns\.holdout\.question=<column>'\."
        ),
    ):
        load_corpus("files", **sets, columns=columns | {"holdout": {"answer": "a"}})
    corpus = load_corpus("files", **sets, columns=columns | {"holdout": {"question": "asked"}})
    plain = load_corpus("files", **(sets | {"holdout": QA[2:]}), columns=columns)["holdout"]  # it has our names
    assert [e.prompt for e in plain] == ["2?"]
    assert {split: corpus[split][0].prompt for split in corpus} == {"forget": "0?", "retain": "1?", "holdout": "2?"}
    with pytest.raises(ExpungeError, match=r"no set is called 'holdut' .*Did you mean 'holdout'"):
        load_corpus("files", **sets, columns=columns | {"holdut": {"question": "asked"}})
    with pytest.raises(ExpungeError, match=r"columns={'holdout': {'answer': 'q'}}: no such column"):
        load_corpus("files", **sets, columns=columns | {"holdout": {"question": "asked", "answer": "q"}})


def test_advice_on_columns_can_be_pasted_into_a_shell(tmp_path):
    path = jsonl(tmp_path / "f.jsonl", [{"the question": "0?", "answer": "it is 0"}])
    with command_line(), pytest.raises(ExpungeError, match=r"it is: 'columns\.question=the question'\."):
        load_corpus("files", forget=path)


def test_a_set_that_is_not_read_is_not_checked(tmp_path):
    path = jsonl(tmp_path / "forget.jsonl", QA)
    corpus = load_corpus(
        "files",
        forget=str(path),
        holdout=str(tmp_path / "nowhere.jsonl"),
        columns={"alternate": "refusal", "holdout": {"question": "q"}},
        reads=["forget"],
    )
    assert list(corpus) == ["forget"] and corpus.origin["holdout"] == str(tmp_path / "nowhere.jsonl")
    with pytest.raises(ExpungeError, match=r"the set retain, and what came is forget\. Name it: retain='<file>'\."):
        load_corpus("files", forget=str(path), reads=["retain"])
    with pytest.raises(ExpungeError, match=r"the set foret, and what came is forget\. Did you mean 'forget'\?"):
        load_corpus("files", forget=str(path), reads=["foret"])


def test_every_answer_of_a_conversation_is_supervised_when_asked_for(tmp_path):
    turns = [("human", "Who?"), ("gpt", "He."), ("human", "When?"), ("gpt", "Then."), ("human", "Thanks.")]
    talk = [{"from": role, "value": text} for role, text in turns]
    path = jsonl(tmp_path / "f.jsonl", [{"conversations": talk[:4]}, {"conversations": talk[2:4]}])
    with pytest.warns(UserWarning, match=r"1 of 2 forget rows hold several answers .*f\.jsonl, line 1\. .*turns='all'"):
        last = load_corpus("files", forget=path)
    assert [(e.question, e.completion) for e in last["forget"]] == [("When?", "Then.")] * 2
    jsonl(path, [{"conversations": talk}])
    with pytest.raises(
        ExpungeError, match=r"must end with a message of the assistant.*user, assistant, user, assistant, u"
    ):
        load_corpus("files", forget=path)
    every = load_corpus("files", forget=path, turns="all")["forget"]
    assert [(e.question, e.completion) for e in every] == [("Who?", "He."), ("When?", "Then.")]
    assert every[1].messages == (("user", "Who?"), ("assistant", "He."), ("user", "When?"))
    assert [e.origin for e in every] == ["f.jsonl, line 1, message 2", "f.jsonl, line 1, message 4"]


def test_a_folder_and_compressed_files_are_sets(tmp_path):
    (tmp_path / "parts").mkdir()
    jsonl(tmp_path / "parts" / "b.jsonl", QA[1:])
    (tmp_path / "parts" / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(QA[0]).encode()))
    with pytest.warns(UserWarning, match=r"parts: read as one set, of a\.jsonl\.gz, b\.jsonl\."):
        corpus = load_corpus("files", forget=str(tmp_path / "parts"))
    assert [e.prompt for e in corpus["forget"]] == ["0?", "1?", "2?"]
