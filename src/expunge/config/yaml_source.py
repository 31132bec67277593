"""How a configuration is written: YAML files and key=value, still as text, with the place of every value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from expunge.core.checks import ExpungeError

Where = tuple[str | int, ...]
"""The way to a value: `("columns", "question")`."""

COMMAND_LINE = "command line"
DEEPEST = 32


@dataclass(frozen=True)
class Mark:
    """What the text of a value does not say."""

    origin: str
    """`run.yaml, line 3` or `command line`."""
    quoted: bool = False
    """Written in quotes, so text whatever it looks like."""


Marks = Mapping[Where, Mark]


@dataclass(frozen=True)
class Layer:
    """What one file or one override sets."""

    tree: dict[str, Any]
    """Values as text, in nested mappings and lists."""
    marks: dict[Where, Mark] = field(default_factory=dict)
    """A mark for each value, each list and each empty mapping."""


def origin(where: Where, marks: Marks) -> str:
    """Where a value came from; of a mapping, where all that it holds came from."""
    if where in marks:
        return marks[where].origin
    return ", ".join(dict.fromkeys(mark.origin for w, mark in marks.items() if w[: len(where)] == where))


def read_override(text: str) -> Layer:
    """The layer of one `key=value`; the key may be dotted, and `-` and `_` in its first part are the same."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ExpungeError(f"'{text}' is not a setting. Write settings as key=value or --key value.")
    if not value:
        raise ExpungeError(f"'{text}' has no value (from {COMMAND_LINE}). For nothing at all, write {key}=null.")
    _check_given(value, COMMAND_LINE)
    where = _way(key)
    return Layer(_nested(where, value), {where: Mark(COMMAND_LINE)})


def read_file(path: Path) -> list[Layer]:
    """The layers of a YAML file, one for each of its top-level keys, which may be dotted."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExpungeError(f"no configuration file at '{path}'.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExpungeError(f"cannot read the configuration file '{path}': {error}.") from error
    tree, marks = read_yaml(text, str(path))
    if not isinstance(tree, dict):
        held = "nothing" if tree is None else "no mapping"
        raise ExpungeError(f"the configuration file '{path}' holds {held}; settings are lines such as 'seed: 1'.")
    return [
        Layer(
            _nested(_way(key), value),
            {(*_way(key), *where[1:]): mark for where, mark in marks.items() if where[0] == key},
        )
        for key, value in tree.items()
    ]


def _check_given(value: str, came_from: str) -> None:
    # Templates of other tools (Hydra, OmegaConf) write ??? for a value that must still be given.
    if value == "???":
        raise ExpungeError(f"{came_from}: ??? stands for a value that is still to be given.")


def _way(key: str) -> tuple[str, ...]:
    first, *rest = key.split(".")
    return (first.replace("-", "_"), *rest)


def _nested(where: Sequence[str], value: Any) -> dict[str, Any]:
    inner = value if len(where) == 1 else _nested(where[1:], value)
    return {where[0]: inner}


def read_yaml(text: str, source: str, *, lines: bool = True) -> tuple[Any, dict[Where, Mark]]:
    """YAML as mappings, lists and text that no type has been guessed for; None where there is no content.

    Args:
        text: the YAML.
        source: where it came from, for messages and marks.
        lines: name lines in the marks too.

    Raises:
        ExpungeError: broken YAML, a key given twice, a merge key, or a tag that asks for more than plain values.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ExpungeError(f"{source}: not valid YAML: {' '.join(str(error).split())}.") from error
    marks: dict[Where, Mark] = {}

    def place(node: yaml.Node) -> str:
        return f"{source}, line {node.start_mark.line + 1}" if lines else source

    def read(node: yaml.Node, where: Where, came_from: str) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:") or ":python/" in node.tag:
            raise ExpungeError(f"{came_from}: a configuration holds plain values only; the tag {node.tag} is not read.")
        if len(where) > DEEPEST:
            raise ExpungeError(f"{came_from}: values nest more than {DEEPEST} deep; does an alias refer to itself?")
        if isinstance(node, yaml.ScalarNode):
            _check_given(node.value, came_from)
            marks[where] = Mark(came_from, quoted=node.style is not None)
            return node.value
        if isinstance(node, yaml.SequenceNode) or not node.value:
            marks[where] = Mark(came_from)
        if isinstance(node, yaml.SequenceNode):
            return [read(item, (*where, i), place(item)) for i, item in enumerate(node.value)]
        return dict(pairs(node, where))

    def pairs(node: yaml.Node, where: Where) -> Iterator[tuple[str, Any]]:
        seen: dict[str, str] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise ExpungeError(f"{place(key)}: a key must be a plain name.")
            if key.value in seen:
                raise ExpungeError(f"{place(key)}: '{key.value}' is given a second time (first: {seen[key.value]}).")
            seen[key.value] = place(key)
            yield key.value, read(value, (*where, key.value), place(key))

    return (None if root is None else read(root, (), place(root))), marks
