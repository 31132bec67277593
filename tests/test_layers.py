"""Arrows between the parts go one way, held by reading every import, those inside functions too.

Each floor sees those below it: core <- config, masks, results, objectives, data <- models, report <- localize,
adapters, training, evaluation <- stop_rules, attack, unlearning, comparison, record <- experiments, chat, release,
sweep <- view, erase <- cli. Models know no data, and `report` sees no torch: `core`, `masks` and `results`.
"""

import ast
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import expunge

ROOT = Path(expunge.__file__).parent

FLOORS = [
    {"core"},
    {"config", "masks", "results", "objectives", "data"},
    {"models", "report"},
    {"localize", "adapters", "training", "evaluation"},
    {"stop_rules", "attack", "unlearning", "comparison", "record"},
    {"experiments", "chat", "release", "sweep"},
    {"view", "erase"},
    {"cli"},
    {"__main__", "__init__"},  # the command and the public names
]
MAY_IMPORT = {part: set().union(*FLOORS[:i]) for i, floor in enumerate(FLOORS) for part in floor} | {
    "models": {"core", "config", "masks", "results", "objectives"},
    "report": {"core", "masks", "results"},
}


def imported(source: str, module: str) -> set[str]:
    """Full names of what a module imports from expunge, however it is written.

    Args:
        source: its text.
        module: its full name, for relative imports; that of a package ends in `.__init__`.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                home = ".".join([*module.split(".")[: -node.level], *([node.module] if node.module else [])])
            found |= {f"{home}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return {name for name in found if name == "expunge" or name.startswith("expunge.")}


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def parts(names: set[str]) -> set[str]:
    """The parts that imported names belong to; that of a public name, such as `expunge.evaluate`, is where it lives."""
    found = set()
    for name in names:
        second = name.split(".")[1] if "." in name else "__init__"
        if not (ROOT / second).is_dir() and not (ROOT / f"{second}.py").is_file():
            second = expunge._HOMES.get(second, "expunge.__init__").split(".")[1]
        found.add(second)
    return found


def violations(source: str, module: str) -> set[str]:
    """The parts that a module imports and must not."""
    own = module.split(".")[1]
    return parts(imported(source, module)) - MAY_IMPORT[own] - {own}


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    return {
        ".".join(["expunge", *path.relative_to(ROOT).with_suffix("").parts]): path
        for path in sorted(ROOT.rglob("*.py"))
    }


def files_of(names: Iterable[str], known: Iterable[str]) -> set[str]:
    """The modules of ours that imported names are, or are defined in.

    A public name such as `expunge.evaluate` is the module it is defined in. A package's own `__init__` is left out:
    Python runs it before any module in it.
    """
    known = set(known)
    found = set()
    for name in names:
        home = expunge._HOMES.get(name.removeprefix("expunge."), name)
        found |= {module for module in (name, name.rpartition(".")[0], home) if module in known}
    return found


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules of which each imports the next and the last is the first; empty where there is no such circle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_circles() -> None:
    found = modules()
    imports = {
        name: files_of(imported(path.read_text(encoding="utf-8"), name), found) - {name} for name, path in found.items()
    }
    assert imports["expunge.models.load"] >= {"expunge.models.adapter_files", "expunge.core.checks"}
    assert circle(imports) == []


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"a": "from expunge.b import f", "b": "def f():\n    from expunge import a"}, True),
        ({"a": "import expunge.b", "b": "import expunge.c", "c": "from expunge.a import f"}, True),
        ({"a": "import expunge.b", "b": "import expunge.c", "c": "import os"}, False),
        ({"a": "from expunge import b", "b": ""}, False),
    ],
)
def test_an_import_circle_is_caught(sources: dict[str, str], found: bool) -> None:
    known = {f"expunge.{name}" for name in sources}
    imports = {f"expunge.{name}": files_of(imported(text, f"expunge.{name}"), known) for name, text in sources.items()}
    assert bool(circle(imports)) == found


def test_the_reader_found_the_package() -> None:
    found = modules()
    assert {"expunge.core.checks", "expunge.objectives.forget.npo", "expunge.cli.app", "expunge.__init__"} <= set(found)


def test_every_part_has_its_place() -> None:
    assert {name.split(".")[1] for name in modules()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("module", modules())
def test_arrows_go_one_way(module: str) -> None:
    assert violations(modules()[module].read_text(encoding="utf-8"), module) == set()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import expunge.data.corpus", {"expunge.data.corpus"}),
        ("import os, expunge.data.corpus as c", {"expunge.data.corpus"}),
        ("from expunge.data import corpus", {"expunge.data.corpus"}),
        (
            "from expunge.data.corpus import Corpus as C, Example",
            {"expunge.data.corpus.Corpus", "expunge.data.corpus.Example"},
        ),
        ("from expunge import data", {"expunge.data"}),
        ("from expunge import load_corpus", {"expunge.load_corpus"}),
        ("import expunge", {"expunge"}),
        ("from . import npo", {"expunge.objectives.forget.npo"}),
        ("from .npo import npo", {"expunge.objectives.forget.npo.npo"}),
        ("from ...data.corpus import Corpus", {"expunge.data.corpus.Corpus"}),
        ("from ... import data", {"expunge.data"}),
        ("def f():\n    from expunge.data import corpus", {"expunge.data.corpus"}),
        ("class A:\n    def f(self):\n        import expunge.data", {"expunge.data"}),
        ("if TYPE_CHECKING:\n    from expunge.data import corpus", {"expunge.data.corpus"}),
        ("try:\n    import expunge.data\nexcept ImportError:\n    pass", {"expunge.data"}),
        ("import importlib\nimportlib.import_module('expunge.data.corpus')", {"expunge.data.corpus"}),
        ("import_module('expunge.data')", {"expunge.data"}),
        ("__import__('expunge.data')", {"expunge.data"}),
        ("import torch\nfrom expunge_other import data\nfrom . import expunge", {"expunge.objectives.forget.expunge"}),
        ("import_module(name)\nimport_module()\nlambda: f()()", set()),
        ("'import expunge.data'  # from expunge import data", set()),
    ],
)
def test_the_reader_sees_every_form_of_import(source: str, names: set[str]) -> None:
    assert imported(source, "expunge.objectives.forget.rmu") == names


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("expunge.core.checks", "from expunge.data import corpus", {"data"}),
        ("expunge.objectives.combine", "def f():\n    import expunge.models.load", {"models"}),
        ("expunge.report.tables", "from ..evaluation import evaluate", {"evaluation"}),
        ("expunge.training.run", "from expunge.evaluation.collect import collect", {"evaluation"}),
        ("expunge.models.load", "from expunge.data.corpus import Corpus", {"data"}),
        ("expunge.training.run", "from expunge import evaluate", {"evaluation"}),  # a public name is no way round
        ("expunge.training.run", "import expunge", {"__init__"}),
        ("expunge.experiments._demo", "from expunge.cli.app import main", {"cli"}),
        ("expunge.cli.verbs.demo", "from expunge.experiments._demo import demo", set()),
        ("expunge.evaluation.suite", "from expunge.data.corpus import Corpus", set()),
    ],
)
def test_a_wrong_arrow_is_caught(module: str, source: str, wrong: set[str]) -> None:
    assert violations(source, module) == wrong
