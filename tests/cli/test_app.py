"""The application: verbs, mistakes, bugs, interruptions."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError

import expunge
from expunge.core.checks import ExpungeError


def test_every_verb_is_listed(call: Callable[..., Any]) -> None:
    code, out, _ = call("--help")
    assert code == 0
    for verb in ("demo", "train", "localize", "unlearn", "evaluate", "report", "list", "data", "mask"):
        assert f"\n  {verb} " in out


def test_an_unknown_verb_answers_with_the_nearest(call: Callable[..., Any]) -> None:
    code, _, err = call("unlern")
    assert code == 2 and "No such command 'unlern'" in err and "unlearn" in err


def test_a_mistake_is_a_message_without_a_traceback(call: Callable[..., Any]) -> None:
    code, out, err = call("unlearn", "model=m", "output=o", "lerning_rate=1")
    assert (code, out) == (2, "")
    assert err.startswith(
        "error: no setting is called 'lerning_rate' (from command line). Did you mean 'learning_rate'?"
    )
    assert "Traceback" not in err


@pytest.fixture
def stage_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[BaseException], None]:
    """Let the stage behind `unlearn` raise, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def patch(error: BaseException) -> None:
        def stage(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("expunge.cli.verbs.unlearn.corpus_of", stage)

    return patch


WORDS = ("unlearn", "model=m", "output=o/p")


def test_an_error_of_a_stage_is_a_message_too(call: Callable[..., Any], stage_raises: Any) -> None:
    stage_raises(ExpungeError("no file at x.\n  Make it."))
    assert call(*WORDS) == (2, "", "error: no file at x.\n  Make it.\n")


@pytest.mark.parametrize(
    ("interrupt", "said"),
    [
        (KeyboardInterrupt(), "interrupted\n"),
        (KeyboardInterrupt("stopped at step 3 of 8"), "interrupted: stopped at step 3 of 8\n"),
    ],
)
def test_ctrl_c_is_a_line(call: Callable[..., Any], stage_raises: Any, interrupt: BaseException, said: str) -> None:
    stage_raises(interrupt)
    assert call(*WORDS) == (130, "", said)


def test_a_bug_shows_its_traceback_and_says_that_it_is_one(call: Callable[..., Any], stage_raises: Any) -> None:
    stage_raises(KeyError("ours \x1b[2J"))
    code, out, err = call(*WORDS)
    assert (code, out) == (70, "") and err.startswith("Traceback (most recent call last):") and "ours" in err
    last = err.splitlines()[-1]
    assert last.startswith(f"This is a fault in expunge {expunge.__version__} (") and "Please report it" in last
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "o/p"), "error: unlearn: no permission for 'o/p'."),
        (OSError(errno.ENOSPC, "No space left on device"), "error: unlearn: the disk is full, at "),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "n" * 400),
            f": '{'n' * 200}...'. Choose a shorter one.",
        ),
        (OSError(errno.ELOOP, "Too many levels", "o"), "'o' is a symbolic link that leads back to itself"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"), "'f/x' is a file where a folder must be"),
        (OSError(errno.ETIMEDOUT, "Timed out", "f"), "error: unlearn: Timed out: 'f'."),
        (OSError("of a library"), "error: unlearn: of a library: of a library."),
        (MemoryError(), "error: unlearn: out of memory (no details). Use less at once"),
        (torch.OutOfMemoryError("tried 9 GiB"), "error: unlearn: out of memory (tried 9 GiB)."),
        (SafetensorError("header too large"), "error: unlearn: a weight file is damaged or cannot be written: header"),
        (pa.ArrowInvalid("no magic bytes"), "error: unlearn: a Parquet file is damaged or too large: no magic bytes"),
        (json.JSONDecodeError("Expecting value", "", 0), "error: unlearn: a JSON file is damaged: Expecting value"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start"), "error: unlearn: a text is not UTF-8: "),
    ],
)
def test_what_disks_and_libraries_raise_is_a_message(
    call: Callable[..., Any], stage_raises: Any, error: Exception, said: str
) -> None:
    stage_raises(error)
    code, out, err = call(*WORDS)
    assert (code, out) == (2, "") and said in err and "Traceback" not in err


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_and_version(call: Callable[..., Any], word: str) -> None:
    assert call("--version") == (0, f"expunge {expunge.__version__}\n", "")
    code, out, _ = call(word)
    assert code == 0 and "--version" in out and "--install-completion" in out
    assert call("unlearn", word).code == call("mask", word).code == 0
    code, _, err = call()
    assert code == 2 and err.startswith("Usage: expunge")


def test_settings_complete_in_the_shell(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]) -> None:
    monkeypatch.setenv("_EXPUNGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "expunge unlearn learn")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert call().out.split() == ["learning_rate="]


def test_nothing_reaches_the_terminal_as_a_command_to_it(call: Callable[..., Any]) -> None:
    for words in (("un\x1b[31mlearn",), ("unlearn", "model=\x1b[2J", "output=o", "x=\x9b1m"), ("list", "\x1b]0;t\x07")):
        code, out, err = call(*words)
        assert code == 2 and not {"\x1b", "\x9b", "\x07"} & {*out, *err}


def test_recipes_are_experiments(call: Callable[..., Any]) -> None:
    found = call("list", "recipes")
    assert found == call("list", "experiments") and "locality" in found.out
    assert "ranks" in call("list", "recipes", "loku").out


def test_the_installed_program(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("expunge")
    if not program.is_file():
        pytest.skip("expunge is not installed as a program here")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}  # a terminal that cannot show all characters
    found = subprocess.run([program, "list", "methods"], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert found.returncode == 0 and "npo" in found.stdout
    wrong = subprocess.run([program, "train"], capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: missing: model, output.")


def test_a_setting_that_is_given_twice_is_said(call: Callable[..., Any]) -> None:
    told = call("evaluate", "model=./a", "suite=tofu", "model=./b", "--dry-run")
    assert "warning: model is given 2 times; the last one counts: model=./b" in told.err
    assert "is given" not in call("evaluate", "model=./a", "--dry-run").err
