r"""References between values: `${seed}` or `${columns.question}` stands for another value, `\${` for a plain `${`."""

import re
from collections.abc import Mapping
from typing import Any

from expunge.config.yaml_source import Marks, Where, origin
from expunge.core.checks import ExpungeError, nearest

_REFERENCE = re.compile(r"\\\$\{|\$\{([^${}]*)\}|\$\{")
"""An escaped `${`, a reference, or a `${` that is never closed."""
MOST_REFERENCES = 1000
"""Of one configuration, those within what they name counted: a few lines can double a text with each line."""


def filled_in(tree: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    """A tree of text with every reference replaced by the value it names.

    A value that is nothing but a reference may stand for a mapping or a list; within other text it must name text.

    Raises:
        ExpungeError: a reference that names nothing, or itself, or is not closed, or more references, those within what
            they name counted, than a configuration has; the message says where it is.
    """
    count = 0

    def fill(value: Any, where: Where, through: tuple[Where, ...] = ()) -> Any:
        if isinstance(value, Mapping):
            return {key: fill(v, (*where, key), through) for key, v in value.items()}
        if isinstance(value, list):
            return [fill(v, (*where, i), through) for i, v in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value

        def named(match: re.Match[str]) -> Any:
            if match[0] == r"\${":
                return "${"
            if match[1] is None:
                raise _refused(where, "a ${ is not closed", marks)
            nonlocal count
            count += 1
            if count > MOST_REFERENCES:
                raise _refused(where, f"the configuration fills in more than {MOST_REFERENCES} references", marks)
            target, found = tuple(match[1].split(".")), _lookup(tree, match[1])
            if found is None:
                near = nearest(match[1], tree)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise _refused(where, f"'{match[1]}' has no value{hint}", marks)
            if any(target == step[: len(target)] for step in (where, *through)):
                raise _refused(where, f"'{match[1]}' refers to itself", marks)
            return fill(found, target, (*through, where))

        if whole := _REFERENCE.fullmatch(value):
            return named(whole)

        def text(match: re.Match[str]) -> str:
            found = named(match)
            if not isinstance(found, str):
                raise _refused(where, f"'{match[1]}' is not a single value, and stands within text", marks)
            return found

        return _REFERENCE.sub(text, value)

    return {key: fill(value, (key,)) for key, value in tree.items()}


def _lookup(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _refused(where: Where, why: str, marks: Marks) -> ExpungeError:
    return ExpungeError(
        f"{'.'.join(map(str, where))}: its ${{...}} cannot be filled in: {why} (from {origin(where, marks)}). "
        "Write \\${ for a plain ${."
    )
