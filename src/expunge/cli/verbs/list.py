"""`expunge list`."""

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path

from expunge.cli.console import say, table
from expunge.cli.help import described
from expunge.cli.verb import Call, Verb
from expunge.config.settings import description, parameters
from expunge.core import catalogue
from expunge.core.checks import unknown


@dataclass(frozen=True)
class ListConfig:
    """Nothing can be set."""


def list_names(call: Call[ListConfig]) -> int:
    """List the names of a kind, with one line each; without a kind, list the kinds; with a name, show its settings."""
    kinds = [word.replace("-", "_") for word in call.positional]
    if len(kinds) == 2 and kinds[0] in catalogue.KINDS and kinds[1] not in catalogue.KINDS:
        return _describe(kinds[0], call.positional[1])
    if not kinds:
        counts = [(kind, entry.what, str(len(catalogue.names(kind)))) for kind, entry in catalogue.KINDS.items()]
        table(("kind", "description", "count"), counts, numeric=(2,))
    for kind in kinds:
        if kind not in catalogue.KINDS:
            raise unknown("kind of thing", kind, catalogue.KINDS)
        table(("name", "what it is"), [(name, summary(kind, name)) for name in catalogue.names(kind)])
    return 0


def _describe(kind: str, name: str) -> int:
    """Show what a name is, and its settings."""
    function = catalogue.resolve(kind, name)
    known = parameters(function, owner=name)
    say("\n".join(described(f"{catalogue.KINDS[kind].what} {name}", description(function), known)))
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
    positional="[KIND [NAME]]",
    note=f"Kinds: {', '.join(catalogue.KINDS)}.",
)
