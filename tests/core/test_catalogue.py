"""The catalogue: names are files, and code of others joins by path or entry point."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from expunge.core import catalogue
from expunge.core.catalogue import KINDS, hyperparameters, names, needs, resolve
from expunge.core.checks import ExpungeError


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of somebody else with two functions and something that is none."""
    module = ModuleType("somebody_elses")

    def mine(logprobs: Any, *, strength: float = 2.0) -> Any:
        return logprobs

    def _private(logprobs: Any) -> Any:
        return logprobs

    module.mine, module._private, module.constant = mine, _private, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody_elses", module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_kind_is_a_name_and_holds_its_function(kind: str) -> None:
    for name in names(kind):
        function = resolve(kind, name)
        assert callable(function) and function.__name__ == name


def test_names_are_the_public_files() -> None:
    folder = Path(inspect.getfile(catalogue)).parents[1] / "objectives" / "forget"
    files = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    assert names("methods") == files
    assert "npo" in files and len(files) > 3  # an empty list would agree with anything


def test_dashes_and_underscores_are_the_same() -> None:
    assert resolve("methods", "grad-diff") is resolve("methods", "grad_diff")


def test_an_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(ExpungeError, match=r"no unlearning method is called 'nop'\. Did you mean 'npo'\? Known: .*npo"):
        resolve("methods", "nop")


def test_initials_are_taken_for_the_name_that_they_abbreviate() -> None:
    with pytest.raises(ExpungeError, match=r"called 'ga'\. Did you mean 'grad_ascent'\?"):
        resolve("methods", "ga")


@pytest.mark.parametrize("name", ["_direction", "__init__", "npo.npo", "../npo", ""])
def test_what_is_no_public_file_is_unknown(name: str) -> None:
    with pytest.raises(ExpungeError, match="no unlearning method is called"):
        resolve("methods", name)


def test_an_unknown_kind() -> None:
    for ask in (lambda: names("method"), lambda: resolve("method", "npo")):
        with pytest.raises(ExpungeError, match=r"no kind of thing is called 'method'\. Did you mean 'methods'\?"):
            ask()


def test_code_of_others_by_path(outside: ModuleType) -> None:
    assert resolve("methods", "somebody_elses:mine") is outside.mine


def test_code_of_others_that_is_not_there(outside: ModuleType) -> None:
    with pytest.raises(
        ExpungeError, match=r"no function in 'somebody_elses' is called 'mien'\. Did you mean 'mine'\? Known: mine\."
    ):
        resolve("methods", "somebody_elses:mien")
    with pytest.raises(ExpungeError, match="no function in 'somebody_elses' is called 'constant'"):
        resolve("methods", "somebody_elses:constant")
    with pytest.raises(ExpungeError, match="metric 'nowhere_at_all:f': cannot import the module 'nowhere_at_all'"):
        resolve("metrics", "nowhere_at_all:f")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a package with these entry points of `expunge.objectives` where Python finds installed ones."""

    def put(**points: str) -> None:
        (tmp_path / "their_package.py").write_text("def mine(logprobs):\n    return logprobs\n", encoding="utf-8")
        info = tmp_path / "their_package-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n", encoding="utf-8")
        lines = "".join(f"{name.replace('_', '-')} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[expunge.objectives]\n{lines}", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    return put


def test_an_installed_package_joins_under_plain_names(install: Callable[..., None]) -> None:
    install(their_method="their_package:mine")
    assert "their_method" in names("methods") and "npo" in names("methods")
    assert resolve("methods", "their_method") is resolve("methods", "their-method")
    assert resolve("methods", "their_method").__module__ == "their_package"
    assert "their_method" not in names("metrics")


def test_ours_go_before_plugins_of_the_same_name_with_a_warning(install: Callable[..., None]) -> None:
    install(grad_diff="their_package:mine")
    assert list(catalogue.hidden("methods")) == ["grad_diff"] and resolve("methods", "npo")
    for ask in (lambda: resolve("methods", "grad-diff"), lambda: resolve("methods", "grad_diff")):
        with pytest.warns(
            UserWarning, match=r"plug-in their_package:mine is hidden by expunge\.objectives\.forget\.gr"
        ):
            ask()
    assert resolve("methods", "their_package:mine").__module__ == "their_package"


@pytest.mark.parametrize("value", ["their_missing_package:mine", "their_package:mien"])
def test_a_broken_plugin_says_what_is_wrong(install: Callable[..., None], value: str) -> None:
    install(their_method=value)
    with pytest.raises(ExpungeError, match=r"installed plug-in|Did you mean 'mine'"):
        resolve("methods", "their_method")


def test_hyperparameters_and_needs() -> None:
    def loss(logprobs: Any, reference_logprobs: Any, *, beta: float = 0.1, size: int) -> None: ...

    assert hyperparameters(loss) == {"beta": 0.1, "size": inspect.Parameter.empty}
    assert needs(loss) == ("logprobs", "reference_logprobs")
