"""`expunge list`."""

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path

from expunge.cli.console import table
from expunge.cli.verb import Call, Verb
from expunge.core import catalogue
from expunge.core.checks import unknown


@dataclass(frozen=True)
class ListConfig:
    """Nothing can be set."""


def list_names(call: Call[ListConfig]) -> int:
    """List what goes by name, with one line each; without a kind, the kinds."""
    kinds = [word.replace("-", "_") for word in call.positional]
    if not kinds:
        counts = [(kind, entry.what, str(len(catalogue.names(kind)))) for kind, entry in catalogue.KINDS.items()]
        table(("list", "what", "known"), counts, numeric=(2,))
    for kind in kinds:
        if kind not in catalogue.KINDS:
            raise unknown("kind of thing", kind, catalogue.KINDS)
        table(("name", "what it is"), [(name, summary(kind, name)) for name in catalogue.names(kind)])
    return 0


def summary(kind: str, name: str) -> str:
    """The first line of a function's docstring, read from its file so that nothing heavy is imported."""
    entry = catalogue.KINDS[kind]
    for folder in importlib.import_module(entry.package).__path__:
        path = Path(folder) / f"{name}.py"
        if path.is_file():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
            text = (function and ast.get_docstring(function)) or ast.get_docstring(tree) or ""
            return text.partition("\n")[0]
    return f"from {catalogue.plugins(kind)[name].value}"


VERB = Verb(
    name="list",
    config=ListConfig,
    run=list_names,
    positional="KIND...",
    note=f"Kinds: {', '.join(catalogue.KINDS)}.",
)
