"""What holds for every experiment, found by discovery: one file each, and nothing else that knows of it."""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from expunge.cli import main
from expunge.cli.help import shown
from expunge.cli.verbs.experiment import verb_of
from expunge.config.convert import convert, describe
from expunge.config.settings import REQUIRED, Setting
from expunge.core import catalogue
from expunge.core.catalogue import names, resolve
from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress
from expunge.data.data_config import CorpusConfig
from expunge.experiments import Result, Table

NAMES = names("experiments")


def test_discovery_finds_them() -> None:
    assert {"attributions", "locality", "loku", "metrics", "tdec", "wagle"} < set(NAMES) and "demo" not in NAMES


def written_back(setting: Setting) -> bool:
    """Is the default, as the help shows it, read as itself?"""
    try:
        return bool(convert(shown(setting.default), setting.type, (setting.name,), {}) == setting.default)
    except ExpungeError:
        return False


def problems(name: str) -> list[str]:
    """What the settings of an experiment lack."""
    verb = verb_of(name)
    found = []
    for setting in verb.own_settings:
        if not setting.doc or not setting.doc.endswith("."):
            found.append(f"{setting.name} has no sentence under Args:")
        if setting.type is Any or "." in describe(setting.type):
            found.append(f"{setting.name} has no type that can be written: {describe(setting.type)}")
        if setting.default is not REQUIRED and not written_back(setting):
            found.append(f"{setting.name} has a default of another type: {setting.default!r}")
        if verb.config is CorpusConfig and setting.name in CorpusConfig.__dataclass_fields__:
            found.append(f"{setting.name} is a data setting already")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_a_type_and_a_sentence(name: str) -> None:
    assert problems(name) == [] and verb_of(name).own_settings[0].name == "output"


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_every_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["experiment", name, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and f"Usage: expunge experiment {name} " in text and "[--overwrite]" in text
    assert "Args:" not in text and "Raises:" not in text
    for setting in verb_of(name).own_settings:
        assert re.search(rf"^  {setting.name}: {re.escape(describe(setting.type))}", text, re.MULTILINE), setting.name


@pytest.mark.parametrize("name", NAMES)
def test_a_file_a_function_a_result(name: str) -> None:
    function = resolve("experiments", name)
    assert function.__module__ == f"expunge.experiments.{name}" and catalogue.needs(function) == ("folder",)
    returned = inspect.signature(function).return_annotation
    assert all(callable(getattr(returned, part)) for part in ("tables", "text"))
    assert "folder" in returned.__dataclass_fields__


class Found:
    """A result."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times = folder, times

    def tables(self) -> Sequence[Table]:
        return [Table(("what", "times"), [("hello", str(self.times))], numeric=(1,), title="Greetings")]

    def text(self) -> str:
        return f"written to {self.folder}"


def greet(
    folder: str | Path = "greetings",
    *,
    times: int,
    whom: Sequence[str] = ("world",),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Found:
    """Greet, an experiment of someone else.

    Args:
        folder: where greetings go.
        times: how often.
        whom: who is greeted.
        overwrite: greet again.
        progress: called with (what, done, total, numbers).
    """
    folder = Path(folder)
    folder.mkdir(exist_ok=overwrite)
    (folder / "greeting.txt").write_text(f"hello {' and '.join(whom)}\n" * times)
    return Found(folder, times)


def untyped(folder: str, *, times, whom: int = "many", forget: str = "x", corpus: Any = None) -> str:  # type: ignore[no-untyped-def]
    """Lack what a setting needs.

    Args:
        times: how often
    """
    return "plain text"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of someone else that holds them."""
    module = ModuleType("their_experiments")
    vars(module).update(greet=greet, untyped=untyped)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def called(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["experiment", *words])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out + told.err

    return called


def test_the_check_of_settings_can_fail(plugin: str) -> None:
    found = problems(f"{plugin}:untyped")
    for expected in (
        "times has no type",
        "whom has no sentence",
        "whom has a default",
        "times has no sentence",
        "forget is a data setting",
    ):
        assert any(problem.startswith(expected) for problem in found), expected


def test_code_of_others_runs_as_an_experiment(
    plugin: str, call: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, out = f"{plugin}:greet", f"output={tmp_path}/out"
    assert isinstance(Found(tmp_path, 1), Result)
    code, text = call(name, "times=2", "whom=Ada,Ben", out)
    assert code == 0 and (tmp_path / "out/greeting.txt").read_text() == "hello Ada and Ben\n" * 2
    assert ["Greetings", "what   times", "hello      2"] == [line for line in text.splitlines() if line][:3]
    assert f"written to {tmp_path}/out" in text
    assert call(name, "times=1", "--overwrite", out)[0] == 0
    assert (tmp_path / "out/greeting.txt").read_text() == "hello world\n"
    code, text = call(name, out)
    assert code == 2 and "missing: times" in text and "How often." in text
    code, text = call(name, "--help")
    assert code == 0 and "Greet, an experiment of someone else." in text and "output: text = greetings" in text
    theirs = EntryPoint("greet", name, catalogue.KINDS["experiments"].group)
    monkeypatch.setattr(catalogue, "entry_points", lambda *, group: [theirs] if group == theirs.group else [])
    assert call("greet", "times=3", "--overwrite", out)[0] == 0
    assert (tmp_path / "out/greeting.txt").read_text() == "hello world\n" * 3


def test_a_plain_result_is_printed_as_it_is(plugin: str, call: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert call(f"{plugin}:untyped", f"output={tmp_path}", "times=1") == (
        0,
        "plain text\nrunning code from their_experiments:untyped\n",
    )
