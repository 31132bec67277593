"""The catalogue: a name is a module is a function.

`npo` is `objectives/forget/npo.py` holding one public function `npo`; nothing is registered by hand. Code of others
joins as `package.module:function`, or under a plain name through a Python entry point of the group named in `KINDS`.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
    inputs: tuple[str, ...] | None
    """What its positional parameters may be called; None: anything."""
    least: int = 1
    """How many of them it has at least; of a kind that needs none, a function has settings."""


_OBSERVED = ("logprobs", "token_logprobs", "logits", "hidden", "completion_mask", "targets", "counts")
_SHOWN = tuple(
    f"{model}{rows}{what}" for model in ("", "reference_") for rows in ("", "alternate_") for what in _OBSERVED
)
_STATISTICS = (
    *("weights", "value_vectors", "forget_gradients", "retain_gradients", "forget_squares"),
    *("mean_inputs", "mean_squared_inputs", "unit", "group", "seed"),
)
_ADAPTED = ("model", "matrices", "forget", "retain", "seed", "progress", "rows_at_once")
KINDS: dict[str, Kind] = {
    "methods": Kind("unlearning method", "expunge.objectives.forget", "expunge.objectives", _SHOWN),
    "retain_losses": Kind("retain loss", "expunge.objectives.retain", "expunge.retain_losses", _SHOWN),
    "adapters": Kind("adapter", "expunge.adapters", "expunge.adapters", _ADAPTED, least=2),
    "attributions": Kind("attribution", "expunge.localize.attributions", "expunge.attributions", _STATISTICS),
    "metrics": Kind("metric", "expunge.evaluation.metrics", "expunge.metrics", None),
    "suites": Kind("suite", "expunge.evaluation.suites", "expunge.suites", ("splits",)),
    "sources": Kind("data source", "expunge.data.sources", "expunge.sources", (), least=0),
    "attacks": Kind("attack", "expunge.attack.attacks", "expunge.attacks", ("model", "tokenizer", "corpus"), least=3),
    "experiments": Kind("experiment", "expunge.experiments", "expunge.experiments", ("folder",), least=0),
}

Gate = Callable[[str, str], None]
"""Called with (what it is, `package.module:function`) before code from outside is imported; raises to forbid it."""
_gate: ContextVar[Gate] = ContextVar("gate", default=lambda what, path: None)


@contextmanager
def guarded(gate: Gate) -> Iterator[None]:
    """Let a gate decide on each `package.module:function` that is asked for meanwhile."""
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)


@cache
def _modules(package: str) -> tuple[str, ...]:
    # Listing files instead of importing them keeps `expunge list` and error messages free of torch.
    path = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")))


def plugins(kind: str) -> dict[str, EntryPoint]:
    """The installed plug-ins of a kind by their name, with `_` for `-` as everywhere.

    A name of ours is never replaced by a plug-in: results under one name would differ from machine to machine.
    """
    return _plugins(kind)[0]


def hidden(kind: str) -> dict[str, str]:
    """By name, a sentence on each installed plug-in that cannot be used by it, since another function has it."""
    return _plugins(kind)[1]


@cache
def _installed(find: Callable[..., Iterable[EntryPoint]], group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group among the packages on a path; looking through all of them takes milliseconds."""
    return tuple(find(group=group))


def _plugins(kind: str) -> tuple[dict[str, EntryPoint], dict[str, str]]:
    entry, found, hidden = KINDS[kind], dict[str, EntryPoint](), dict[str, str]()
    for plugin in _installed(entry_points, entry.group, tuple(sys.path)):
        plain, path = plugin.name.replace("-", "_"), plugin.value
        other = f"{entry.package}.{plain}" if plain in _modules(entry.package) else ""
        other = other or (found[plain].value if plain in found and found[plain].value != path else "")
        if other:
            hidden[plain] = (
                f"the {entry.what} '{plugin.name}' of the installed plug-in {path} is hidden by {other}, which has the "
                f"same name; use it as {path}."
            )
        else:
            found[plain] = plugin
    return found, hidden


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
        ExpungeError: nothing has that name (the message holds the nearest known one), its code cannot be imported, it
            is no function of that kind, or the gate does not let it in.
    """
    if kind not in KINDS:
        raise unknown("kind of thing", kind, KINDS)
    entry = KINDS[kind]
    if not isinstance(name, str):
        raise ExpungeError(f"{entry.what}: a name is text, such as '{names(kind)[0]}'; got {name!r}.")
    if ":" in name:
        _gate.get()(entry.what, name)
        return _outside(entry, name)
    plain, (theirs, clashes) = name.replace("-", "_"), _plugins(kind)
    if plain in clashes:
        warnings.warn(clashes[plain], stacklevel=2)
    if plain in _modules(entry.package):
        function: Callable[..., Any] = getattr(importlib.import_module(f"{entry.package}.{plain}"), plain)
        return function
    if plain not in theirs:
        raise unknown(entry.what, name, names(kind))
    plugin = theirs[plain]
    path = f"{plugin.module}:{plugin.attr}"
    return _outside(entry, path, came_from=f" of an installed plug-in ({plugin.group})")


def _outside(kind: Kind, name: str, came_from: str = "") -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    said = f"{kind.what} '{name}'{came_from}"
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise ExpungeError(f"{said}: code from outside is named as package.module:function.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of others raises while it is imported
        raise ExpungeError(
            f"{said}: cannot import the module '{module_name}' ({type(error).__name__}: {error})."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [k for k, v in vars(module).items() if inspect.isfunction(v) and not k.startswith("_")]
        raise unknown(f"function in '{module_name}'", function_name, public)
    _check_signature(kind, said, function)
    return function  # type: ignore[no-any-return]


def _check_signature(kind: Kind, said: str, function: Callable[..., Any]) -> None:
    """Raise for what is no function of a kind, before anything calls it."""
    try:
        inputs = needs(function)
    except (TypeError, ValueError):
        raise ExpungeError(f"{said}: its parameters cannot be read, so it is not called.") from None
    strange = [] if kind.inputs is None else [name for name in inputs if name not in kind.inputs]
    if not strange and len(inputs) >= kind.least and (inputs or hyperparameters(function)):
        return
    taken = f"its positional parameters are {', '.join(inputs)}" if inputs else "it has no positional parameter"
    wanted = "what it reads" if kind.inputs is None else ", ".join(kind.inputs[:8]) + (", ..." * (len(kind.inputs) > 8))
    must = (
        f"it must have at least {kind.least}, named {wanted}"
        if wanted and kind.least
        else "it must have settings alone"
    )
    raise ExpungeError(
        f"{said} is no {kind.what}, and is not called: {taken}; {must}. Settings are keyword-only parameters."
    )


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
