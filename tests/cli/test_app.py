"""The application: verbs, mistakes, bugs, interruptions."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
def stage_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the stage behind `unlearn` raise."""

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


def test_a_bug_keeps_its_traceback(stage_raises: Any) -> None:
    from expunge.cli import main

    stage_raises(KeyError("ours"))
    with pytest.raises(KeyError, match="ours"):
        main(list(WORDS))


def test_the_installed_program(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("expunge")
    if not program.is_file():
        pytest.skip("expunge is not installed as a program here")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}  # a terminal that cannot show all characters
    found = subprocess.run([program, "list", "methods"], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert found.returncode == 0 and "npo" in found.stdout
    wrong = subprocess.run([program, "train"], capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: missing: model, output.")
