"""What is imported is declared, and what is declared is imported; lazy imports count."""

import ast
import re
import sys
from pathlib import Path
from typing import get_args

import pytest

from expunge.training.training_config import Tracker

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Packages whose module has another name."""


def normalized(requirement: str) -> str:
    """`huggingface_hub>=1` to `huggingface-hub`."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def modules(requirements: list[str]) -> set[str]:
    """The modules that requirements bring."""
    names = map(normalized, requirements)
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported(source: str) -> set[str]:
    """Top-level modules that a file imports, those outside Python and by name (`import_module`, `find_spec`) too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in ("import_module", "find_spec", "__import__"):
                found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"expunge"}


def imported_below(*folders: str) -> set[str]:
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert files
    return set().union(*(imported(path.read_text(encoding="utf-8")) for path in files))


REQUIRED = modules(PROJECT["dependencies"])
EXTRAS = {extra: modules(names) for extra, names in PROJECT["optional-dependencies"].items() if extra != "dev"}
DEVELOPMENT = modules(PROJECT["optional-dependencies"]["dev"])
THROUGH_TRANSFORMERS = {*get_args(Tracker)}
"""What transformers imports for us, by the name that we hand through."""


def test_the_library_imports_what_is_declared_and_declares_what_it_imports() -> None:
    used = imported_below("src") | THROUGH_TRANSFORMERS
    optional = set().union(*EXTRAS.values())
    assert not used - REQUIRED - optional, "imported and not declared"
    assert not REQUIRED - used, "required and never imported"
    assert not optional - used, "in an extra and never used"
    assert not REQUIRED & optional, "required, so in no extra"


def test_an_optional_package_is_never_imported_at_the_top_of_a_module() -> None:
    # It would break the library for everyone who has not installed it.
    for path in (ROOT / "src").rglob("*.py"):
        at_the_top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        found = set().union(*(imported(ast.unparse(node)) for node in at_the_top))
        assert found <= REQUIRED, path


def test_the_extra_for_the_harness_brings_what_models_in_memory_need() -> None:
    (requirement,) = PROJECT["optional-dependencies"]["lm-eval"]
    assert requirement.startswith(
        "lm-eval[hf]>="
    )  # a plain install leaves out what its wrapper of transformers imports


def test_tests_and_benchmarks_need_nothing_more_than_the_extra_dev() -> None:
    own = {path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    packages = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert not imported_below("tests", "benchmarks") - own - packages - REQUIRED - DEVELOPMENT - {"tomli"}


def test_every_version_that_results_depend_on_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normalized(line) for line in lines if line and not line.startswith("#")}
    declared = {normalized(name) for name in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]}
    assert pinned == declared


@pytest.mark.parametrize(
    "source", ["import nltk.stem", "def f():\n    from nltk.stem import x", 'import_module("nltk.stem")']
)
def test_the_reader_sees_every_kind_of_import(source: str) -> None:
    assert imported(source) == {"nltk"}
