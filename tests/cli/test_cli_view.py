"""`expunge view`: the address it tells is the page, until Ctrl-C."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import made_run
import zoo
from expunge.cli.verbs.view import ViewConfig, opened
from expunge.core.manifest import Manifest
from expunge.data.template import Template
from expunge.models.load import save_model


@contextmanager
def killed(process: "subprocess.Popen[str]") -> Iterator[None]:
    """A process that outlives its test would be waited for without end."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.slow
def test_the_page_is_where_it_says_until_ctrl_c(tmp_path: Path) -> None:
    made_run.run(tmp_path / "npo")
    command = [sys.executable, "-m", "expunge", "view", str(tmp_path), "port=0"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a test in the background is deaf to Ctrl-C
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
        ) as served,
        killed(served),
    ):
        assert served.stdout is not None and served.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", served.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(f"{address[0]}state.json", timeout=60) as answer:
            assert b'"name": "npo"' in answer.read()
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 130 and "interrupted" in served.stderr.read()


def test_the_models_of_a_run_stand_beside_it_where_it_names_them(tmp_path: Path) -> None:
    for seed, name in enumerate(("start", "run", "alone")):
        save_model(zoo.tiny_model(seed=seed), zoo.tokenizer(), tmp_path / name)
    data = {"source": "files", "forget": str(tmp_path / "gone.jsonl")}
    told = {"finished": True, "start_model": str(tmp_path / "start"), "corpus": data}
    Manifest(stage="unlearn", arguments={}, results=told).save(tmp_path / "run")
    chat, note = opened(tmp_path / "run", ViewConfig(max_new_tokens=2))
    assert [*chat.ask("Where?").answers] == ["run", "start"] and "gone.jsonl" in note
    framed = Template(name="plain", qa="Q {question} A ")
    Manifest(stage="unlearn", arguments={"template": framed.about}, results=told).save(tmp_path / "run")
    assert opened(tmp_path / "run", ViewConfig())[0]._speakers["run"].template == framed  # as the run was framed
    chat, note = opened(tmp_path / "alone", ViewConfig(max_new_tokens=2))
    assert [*chat.ask("Where?").answers] == ["alone"] and not note


def test_mistakes_are_told(tmp_path: Path, call: Callable[..., Any]) -> None:
    for words, said in (
        (("view",), "name the folder that holds the run folders"),
        (("view", tmp_path / "none"), "no folder at"),
        (("view", tmp_path, "port=70000"), "port must be from 0 to 65535"),
    ):
        found = call(*words)
        assert found.code == 2 and said in found.err
