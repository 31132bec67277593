"""The catalogue: a name is a module is a function.

`npo` is `objectives/forget/npo.py` holding one public function `npo`; nothing is registered by hand. Code of others
joins as `package.module:function`, or under a plain name through a Python entry point of the group named in `KINDS`.
"""

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from expunge.core.checks import ExpungeError, unknown


@dataclass(frozen=True)
class Kind:
    """One kind of thing that goes by name: what to call it, where ours live, and how others join."""

    what: str
    package: str
    group: str


KINDS: dict[str, Kind] = {
    "methods": Kind("unlearning method", "expunge.objectives.forget", "expunge.objectives"),
    "retain_losses": Kind("retain loss", "expunge.objectives.retain", "expunge.retain_losses"),
    "adapters": Kind("adapter", "expunge.adapters", "expunge.adapters"),
    "attributions": Kind("attribution", "expunge.localize.attributions", "expunge.attributions"),
    "metrics": Kind("metric", "expunge.evaluation.metrics", "expunge.metrics"),
    "suites": Kind("suite", "expunge.evaluation.suites", "expunge.suites"),
    "sources": Kind("data source", "expunge.data.sources", "expunge.sources"),
    "attacks": Kind("attack", "expunge.attack.attacks", "expunge.attacks"),
    "experiments": Kind("experiment", "expunge.experiments", "expunge.experiments"),
}


@cache
def _modules(package: str) -> tuple[str, ...]:
    # Listing files instead of importing them keeps `expunge list` and error messages free of torch.
    path = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")))


def plugins(kind: str) -> dict[str, EntryPoint]:
    """The installed plug-ins of a kind by their name, with `_` for `-` as everywhere.

    A name of ours is never replaced by a plug-in: results under one name would differ from machine to machine.
    """
    entry, found = KINDS[kind], dict[str, EntryPoint]()
    for plugin in entry_points(group=entry.group):
        plain, path = plugin.name.replace("-", "_"), plugin.value
        other = f"{entry.package}.{plain}" if plain in _modules(entry.package) else ""
        other = other or (found[plain].value if plain in found and found[plain].value != path else "")
        if other:
            warnings.warn(
                f"the {entry.what} '{plugin.name}' of the installed plug-in {path} is hidden by {other}, which has the "
                f"same name; use it as {path}.",
                stacklevel=3,
            )
        else:
            found[plain] = plugin
    return found


def names(kind: str) -> list[str]:
    """All names of a kind, ours and those of installed plug-ins, sorted."""
    if kind not in KINDS:
        raise unknown("kind of thing", kind, KINDS)
    return sorted({*_modules(KINDS[kind].package), *plugins(kind)})


def resolve(kind: str, name: str) -> Callable[..., Any]:
    """The function behind a name.

    Args:
        kind: a key of `KINDS`.
        name: a name of that kind (`-` and `_` are the same), or `package.module:function` for code of your own.

    Raises:
        ExpungeError: nothing has that name (the message holds the nearest known one), or its code cannot be
            imported.
    """
    if kind not in KINDS:
        raise unknown("kind of thing", kind, KINDS)
    entry = KINDS[kind]
    if ":" in name:
        return _outside(entry.what, name)
    plain, theirs = name.replace("-", "_"), plugins(kind)
    if plain in _modules(entry.package):
        function: Callable[..., Any] = getattr(importlib.import_module(f"{entry.package}.{plain}"), plain)
        return function
    if plain not in theirs:
        raise unknown(entry.what, name, names(kind))
    plugin = theirs[plain]
    path = f"{plugin.module}:{plugin.attr}"
    return _outside(entry.what, path, came_from=f" of an installed plug-in ({plugin.group})")


def _outside(what: str, name: str, came_from: str = "") -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ExpungeError(
            f"{what} '{name}'{came_from}: cannot import the module '{module_name}' ({error})."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [k for k, v in vars(module).items() if inspect.isfunction(v) and not k.startswith("_")]
        raise unknown(f"function in '{module_name}'", function_name, public)
    return function  # type: ignore[no-any-return]


def hyperparameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters of a catalogued function with their defaults.

    `inspect.Parameter.empty` stands where there is none.
    """
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def needs(function: Callable[..., Any]) -> tuple[str, ...]:
    """Positional parameter names of a catalogued function: what it must be handed."""
    parameters = inspect.signature(function).parameters.values()
    keywords = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind not in keywords)


def of_adapters(name: str) -> str:
    """A sentence that says which of our adapters have a setting of this name; empty where none has."""
    ours = _modules(KINDS["adapters"].package)
    having = [adapter for adapter in ours if name in hyperparameters(resolve("adapters", adapter))]
    if not having:
        return ""
    if len(having) == len(ours):
        return f"{name} is a setting of adapters: adapter=lora."
    return f"{name} is a setting of {', '.join(having)}: adapter={having[0]}."
