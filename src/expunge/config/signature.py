"""Functions that take the fields of configuration dataclasses as keyword arguments, and show them as their own."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from expunge.config.settings import REQUIRED, settings

F = TypeVar("F", bound=Callable[..., Any])


def shows_settings(*configs: type) -> Callable[[F], F]:
    """Replace `**settings` in a function's signature by the fields of dataclasses, and list them in its help.

    The dataclass stays the one place where a setting's name, type, default and meaning are written.

    Args:
        configs: dataclasses whose fields the function accepts as keyword arguments.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        further = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        found = {s.name: s for config in configs for s in settings(config)}
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
