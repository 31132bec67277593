"""Advice is written as whoever is spoken to would write it."""

import shlex

from expunge.core.surface import assigned, command_line, flag


def test_python_and_the_command_line_have_words_of_their_own() -> None:
    columns = {"forget": {"question": "the question"}, "answer": "a"}
    assert flag("dry_run") == "dry_run=True"
    assert assigned(columns=columns) == f"columns={columns!r}"
    with command_line():
        assert flag("dry_run") == "--dry-run"
        written = assigned(columns=columns)
    assert shlex.split(written) == ["columns.forget.question=the question", "columns.answer=a"]
    assert flag("dry_run") == "dry_run=True"


def test_values_are_written_as_the_command_line_reads_them() -> None:
    with command_line():
        words = shlex.split(assigned(metrics=("a", "b"), label=None, patch=True, forget="it's; rm x.jsonl"))
    assert words == ["metrics=a,b", "label=null", "patch=true", "forget=it's; rm x.jsonl"]
