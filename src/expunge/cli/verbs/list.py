"""`expunge list`."""

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path

from expunge.cli.console import complain, heading, say, table
from expunge.cli.help import described
from expunge.cli.verb import Call, Verb
from expunge.config import presets
from expunge.config.settings import description, parameters
from expunge.core import catalogue
from expunge.core.checks import unknown

PRESETS = "presets"
ALIASES = {"recipes": "experiments"}


@dataclass(frozen=True)
class ListConfig:
    """Nothing can be set."""


def list_names(call: Call[ListConfig]) -> int:
    """List the names of a kind, with one line each; without a kind, list the kinds; with a name, show its settings."""
    kinds = [ALIASES.get(word, word.replace("-", "_")) for word in call.positional]
    if len(kinds) == 2 and kinds[0] in catalogue.KINDS and kinds[1] not in catalogue.KINDS:
        return _describe(kinds[0], call.positional[1])
    if len(kinds) == 2 and kinds[0] == PRESETS:
        for name, text in presets.texts(call.positional[1]).items():
            heading(name)
            say(text)
        return 0
    if not kinds:
        counts = [(kind, entry.what, str(len(catalogue.names(kind)))) for kind, entry in catalogue.KINDS.items()]
        counts += [(PRESETS, "published settings", str(len(presets.names())))]
        table(("kind", "description", "count"), counts, numeric=(2,))
    for kind in kinds:
        if kind == PRESETS:
            table(("name", "what it is"), [(name, presets.about(name)) for name in presets.names()])
        elif kind in catalogue.KINDS:
            table(("name", "what it is"), [(name, summary(kind, name)) for name in catalogue.names(kind)])
            for note in catalogue.hidden(kind).values():
                complain(f"warning: {note}")
        else:
            raise unknown("kind of thing", kind, [*catalogue.KINDS, PRESETS])
    return 0


def _describe(kind: str, name: str) -> int:
    """Show what a name is, and its settings."""
    function = catalogue.resolve(kind, name)
    known = parameters(function, owner=name)
    if kind == "attacks":  # what all attacks share is set once, not for each
        from expunge.attack.attack import COMMON

        known = tuple(setting for setting in known if setting.name not in COMMON)
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
    note=f"Kinds: {', '.join([*catalogue.KINDS, PRESETS])}.",
)
