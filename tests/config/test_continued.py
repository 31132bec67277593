"""Settings that go on from an earlier run: its model, data and framing, below what is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.config.continued import with_continued
from expunge.config.yaml_source import joined, read_override
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, file_digest, several

TEMPLATE = {"name": "chat", "system": None, "arguments": {"enable_thinking": False}, "date": "2026-01-31"}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A finished run that was to forget a file."""
    rows = tmp_path / "first.jsonl"
    rows.write_text(json.dumps({"question": "?", "answer": "!"}) + "\n")
    return manifest(tmp_path / "first", rows)


def manifest(folder: Path, rows: Path, **results: Any) -> Path:
    data = {"source": "files", "forget": str(rows), "retain": "retain.jsonl", "columns": {"question": "question"}}
    known = {"finished": True, "start_model": "start", "corpus": data, "data": {"forget": {"file": file_digest(rows)}}}
    arguments = {"template": TEMPLATE, "max_length": 64}
    Manifest(stage="unlearn", arguments=arguments, results={**known, **results}).save(folder)
    return folder


def settings(*words: str) -> dict[str, Any]:
    return joined({}, with_continued([read_override(word) for word in words]))


def test_the_model_the_data_and_the_framing_of_the_run_count_where_none_are_given(first: Path) -> None:
    found = settings(f"continue={first}", "forget=second.jsonl", "max_length=128")
    assert found == {
        "continue": str(first),
        "model": str(first),
        "forget": f"second.jsonl,{first}.jsonl",
        "retain": "retain.jsonl",
        "columns": {"question": "question"},
        "template": "chat",
        "template_arguments": {"enable_thinking": "false"},
        "date": "2026-01-31",
        "max_length": "128",
    }
    assert settings(f"continue={first}", "forget=second.jsonl", "retain=other.jsonl")["retain"] == "other.jsonl"


def test_without_it_nothing_changes() -> None:
    assert settings("model=m", "forget=f") == {"model": "m", "forget": "f"}
    assert settings("model=m", "continue=null") == {"model": "m", "continue": "null"}


def test_where_values_come_from_is_told(first: Path) -> None:
    layers = with_continued([read_override(word) for word in (f"continue={first}", "forget=second.jsonl")])
    origins = {where: mark.origin for layer in layers for where, mark in layer.marks.items()}
    assert origins["model",] == origins["columns", "question"] == origins["forget",] == f"continue={first}"


def test_mistakes_are_told(first: Path, tmp_path: Path) -> None:
    benchmark = manifest(tmp_path / "tofu", tmp_path / "first.jsonl", corpus={"source": "tofu", "forget": "forget01"})
    unfinished = manifest(tmp_path / "unfinished", tmp_path / "first.jsonl", finished=False)
    for words, said in (
        ((f"continue={first}",), "needs the new rows to forget: forget=<file>"),
        ((f"continue={first}", "forget=f", "model=other"), "begins with the model of that run, and model=other"),
        ((f"continue={first}", "forget=forget01", "source=tofu"), "joins forget sets in files, and source=tofu"),
        ((f"continue={benchmark}", "forget=f"), "that run does not say in which files its forget set is"),
        ((f"continue={unfinished}", "forget=f"), "names no finished run"),
        ((f"continue={tmp_path / 'none'}", "forget=f"), "none"),
    ):
        with pytest.raises(ExpungeError, match=said):
            settings(*words)


def test_rows_that_changed_since_are_not_taken_for_those_that_were_forgotten(first: Path, tmp_path: Path) -> None:
    with (tmp_path / "first.jsonl").open("a") as file:
        file.write(json.dumps({"question": "a", "answer": "b"}) + "\n")
    with pytest.raises(ExpungeError, match=r"first\.jsonl, are gone or were changed since"):
        settings(f"continue={first}", "forget=second.jsonl")
    (tmp_path / "first.jsonl").unlink()
    with pytest.raises(ExpungeError, match=r"first\.jsonl, are gone or were changed since"):
        settings(f"continue={first}", "forget=second.jsonl")


def test_an_inherited_retain_set_must_be_as_it_was(tmp_path: Path) -> None:
    rows, kept = tmp_path / "first.jsonl", tmp_path / "retain.jsonl"
    for file in (rows, kept):
        file.write_text(json.dumps({"question": "?", "answer": "!"}) + "\n")
    data = {"source": "files", "forget": str(rows), "retain": str(kept)}
    told = {split: {"file": file_digest(file)} for split, file in (("forget", rows), ("retain", kept))}
    run = manifest(tmp_path / "run", rows, corpus=data, data=told)
    assert settings(f"continue={run}", "forget=second.jsonl")["retain"] == str(kept)
    kept.write_text("")
    with pytest.raises(ExpungeError, match="Name the one to take: retain=<file>"):
        settings(f"continue={run}", "forget=second.jsonl")
    assert settings(f"continue={run}", "forget=second.jsonl", "retain=other.jsonl")["retain"] == "other.jsonl"


def test_a_file_whose_name_holds_a_comma_is_one_file(tmp_path: Path) -> None:
    rows = tmp_path / "old,v1.jsonl"
    rows.write_text(json.dumps({"question": "?", "answer": "!"}) + "\n")
    run = manifest(tmp_path / "run", rows, corpus={"source": "files", "forget": str(rows)})
    assert several(settings(f"continue={run}", "forget=new.jsonl")["forget"]) == ["new.jsonl", str(rows)]
