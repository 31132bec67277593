"""Functions that take the settings of dataclasses or other functions as keyword arguments, and show them as theirs."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from expunge.config.settings import REQUIRED, parameters, settings

F = TypeVar("F", bound=Callable[..., Any])


def shows_settings(*homes: type | Callable[..., Any]) -> Callable[[F], F]:
    """Show what `**settings` of a function may hold in its signature, and list it in its help.

    The home of a setting stays the one place where its name, type, default and meaning are written. A parameter that
    the function has itself goes first.

    Args:
        homes: dataclasses whose fields, or functions whose keyword-only parameters, the function accepts.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        further = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        lists = (settings(h) if isinstance(h, type) else parameters(h, owner=h.__name__) for h in homes)
        found = {s.name: s for known in lists for s in known if s.name not in signature.parameters}
        fields = [
            inspect.Parameter(
                setting.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if setting.default is REQUIRED else setting.default,
                annotation=setting.type,
            )
            for setting in found.values()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *fields, *further])  # type: ignore[attr-defined]
        lines = [f"    {setting.name}: {setting.doc}" for setting in found.values()]
        if function.__doc__ is not None:  # python -OO has none
            function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__), "", "Settings:", *lines])
        return function

    return decorate
