"""Presets: the settings that a paper publishes for a model, as one more layer below the user's own.

A preset is a file of the package, `presets/<paper>/<model>.yaml`. It holds `about`, a line on what it is; `extends`,
where it only adds to another preset; and sections of settings:

    unlearn:                                  # of the verb `unlearn`, always
      learning_rate: 1e-5
    unlearn method=simnpo:                    # the same, if the method is simnpo
      beta: 4.5
    unlearn method=simnpo forget=forget05:    # ... and the forget set is forget05
      beta: 2.5

Later sections win over earlier ones, and everything that the user sets over all of them, `method` and `forget` above
included. A preset with a section for a method covers those methods that have one, and refuses others: settings
published for one method are not published for another.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.config.yaml_source import Layer, joined, layers_of, read_yaml
from expunge.core.checks import ExpungeError, unknown

FOLDER = Path(__file__).parents[1] / "presets"
SUFFIX = ".yaml"
KEY = "preset"
COVERS = "method"
"""The setting for whose other values a preset has nothing to say."""


@dataclass(frozen=True)
class Section:
    """Settings of a preset for one verb, and when they apply."""

    verb: str
    conditions: Mapping[str, str]
    """Setting -> the value that it must have."""
    layers: Sequence[Layer]


def names() -> list[str]:
    """All presets, as `<paper>/<model>`, sorted."""
    return sorted(path.relative_to(FOLDER).as_posix().removesuffix(SUFFIX) for path in FOLDER.glob(f"*/*{SUFFIX}"))


def texts(name: str) -> dict[str, str]:
    """A preset as it is written, with sources and departures in comments, and those that it extends, by name.

    Raises:
        ExpungeError: no preset has that name; the message lists all.
    """
    written = _text(name)
    tree, _ = read_yaml(written, name)
    return {name: written} | (texts(tree["extends"]) if "extends" in tree else {})


def _text(name: str) -> str:
    if name not in names():
        raise unknown("preset", name, names())
    return (FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8")


def about(name: str) -> str:
    """The line that says what a preset is."""
    tree, _ = read_yaml(_text(name), name)
    return str(tree["about"])


def sections(name: str, shown_as: str | None = None) -> list[Section]:
    """The sections of a preset, those of the preset that it extends first.

    Args:
        name: of the preset.
        shown_as: name in the origin of its values; None: its own.
    """
    shown_as = shown_as or name
    tree, marks = read_yaml(_text(name), f"{KEY} {shown_as}", lines=False)
    found = sections(tree["extends"], shown_as) if "extends" in tree else []
    for head, held in tree.items():
        if head in ("about", "extends"):
            continue
        words = head.split()
        verb = " ".join(word for word in words if "=" not in word)
        conditions = dict(word.split("=", 1) for word in words if "=" in word)
        own = {where[1:]: mark for where, mark in marks.items() if where[0] == head and len(where) > 1}
        found.append(Section(verb, conditions, layers_of(held, own)))
    return found


def with_preset(verb: str, defaults: Mapping[str, Any], layers: Sequence[Layer]) -> list[Layer]:
    """Layers of a user with those of the preset that they name below them; `preset` itself is taken out.

    Args:
        verb: what the settings are for.
        defaults: of the settings, as text, for the conditions of sections.
        layers: of files and overrides; a later `preset` wins, and `null` names none.

    Raises:
        ExpungeError: an unknown preset, or one that has nothing for this verb or this method.
    """
    chosen = [layer.tree[KEY] for layer in layers if KEY in layer.tree]
    own = [layer for layer in layers if KEY not in layer.tree]
    if not chosen or chosen[-1] == "null":
        return own
    name = str(chosen[-1])
    all_sections = sections(name)
    for_verb = [section for section in all_sections if section.verb == verb]
    if not for_verb:
        verbs = ", ".join(dict.fromkeys(section.verb for section in all_sections))
        raise ExpungeError(f"the preset {name} has no settings for {verb}; it has some for: {verbs}.")
    below: list[Layer] = []
    for section in for_verb:
        tree = joined(defaults, [*below, *own])
        if all(_plain(tree.get(key)) == _plain(value) for key, value in section.conditions.items()):
            below += section.layers
    covered = dict.fromkeys(section.conditions[COVERS] for section in for_verb if COVERS in section.conditions)
    asked = joined(defaults, [*below, *own]).get(COVERS)
    if covered and _plain(asked) not in covered:
        raise ExpungeError(
            f"the preset {name} has no settings for {COVERS}={asked}; it has some for: {', '.join(covered)}. For other "
            f"methods leave preset out and set what you need; `expunge list presets {name}` shows what was published."
        )
    return [*below, *own]


def exist_for(verb: str) -> bool:
    """Has some preset settings for this verb? Reads no YAML, so that help stays quick."""
    head = re.compile(rf"^{re.escape(verb)}( \S+=\S+)*:", re.MULTILINE)
    return any(head.search(_text(name)) for name in names())


def _plain(value: Any) -> Any:
    return value.replace("-", "_") if isinstance(value, str) else value
