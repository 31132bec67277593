"""What can be set: the fields of a configuration dataclass, and the hyperparameters of a catalogued function."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

DEFAULT = "default"
REQUIRED: Any = object()
"""The default of a setting that has none."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One thing that can be set."""

    name: str
    type: Any
    default: Any = REQUIRED
    doc: str = ""
    group: str = ""
    """What it belongs to, for lists of settings: the first sentence of its class."""
    default_origin: str = DEFAULT
    """Where its default comes from: `default`, or `default of npo`."""


def settings(cls: type) -> tuple[Setting, ...]:
    """Every field of a dataclass with type, default and docstring; its own fields first, then those of its bases."""
    hints = get_type_hints(cls)
    homes = {name: home for home in reversed(cls.__mro__) for name in inspect.get_annotations(home)}
    docs = {home: _field_docs(home) for home in set(homes.values())}
    found = [
        Setting(
            name=f.name,
            type=hints[f.name],
            default=_default(f),
            doc=docs[homes[f.name]].get(f.name, ""),
            group=(inspect.getdoc(homes[f.name]) or "").partition("\n")[0].partition(". ")[0].rstrip("."),
        )
        for f in dataclasses.fields(cls)
    ]
    return tuple(sorted(found, key=lambda s: cls.__mro__.index(homes[s.name])))


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _field_docs(cls: type) -> dict[str, str]:
    # A string below a field is no attribute at run time, so the source is read.
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[ast.unparse(statement.target)] = " ".join(str(after.value.value).split())
    return docs


def parameters(
    function: Callable[..., Any], *, owner: str, beside: Mapping[str, Any] | None = None
) -> tuple[Setting, ...]:
    """The keyword-only parameters of a function as settings, with what its docstring says under `Args:`.

    Args:
        function: a catalogued function.
        owner: the name it goes by, for messages.
        beside: further settings with their defaults that are no parameters, such as `Method.observes`.
    """
    shown = [p for p in inspect.signature(function).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    # A signature may show more than the function's own hints know: see `shows_settings`.
    hints = {p.name: p.annotation for p in shown if p.annotation is not p.empty} | get_type_hints(function)
    found = {p.name: (hints.get(p.name, Any), REQUIRED if p.default is p.empty else p.default) for p in shown}
    for name, default in (beside or {}).items():
        found.setdefault(name, (Any if default is None else type(default), default))
    origin, docs = f"{DEFAULT} of {owner}", argument_docs(function)
    return tuple(
        Setting(
            name=name,
            type=kind,
            default=default,
            doc=docs.get(name, ""),
            group=f"Settings of {owner}",
            default_origin=origin,
        )
        for name, (kind, default) in found.items()
    )


def argument_docs(function: Callable[..., Any]) -> dict[str, str]:
    """By parameter, the text under `Args:` and `Settings:`, with a capital letter."""
    doc, found = inspect.getdoc(function) or "", {}
    for head in ("Args", "Settings"):
        _, _, after = doc.partition(f"\n{head}:\n")
        section = re.split(r"^\S", after, maxsplit=1, flags=re.MULTILINE)[0]
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}\S.*)*)", section, flags=re.MULTILINE):
            found[name] = text[:1].upper() + " ".join(text[1:].split())
    return found


def description(function: Callable[..., Any]) -> str:
    """The docstring of a function down to its first section: what it does, without arguments, errors and sources."""
    return re.split(r"\n(?=(?:Args|Settings|Returns|Raises):\n|Source: )", inspect.getdoc(function) or "")[0].strip()
