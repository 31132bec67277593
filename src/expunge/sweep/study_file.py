"""The file of a study: settings of all runs, what is searched, and how. Every value knows its line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.config.convert import convert
from expunge.config.yaml_source import Layer, Mark, Marks, Where, layers_of, origin, read_yaml
from expunge.core.checks import ExpungeError, unknown
from expunge.sweep.space import RANGE_KEYS, Choices, Space, label

SETTINGS, SEARCH, STUDY = "settings", "search", "study"
_KINDS = dict(zip(RANGE_KEYS, (float, float, bool, bool), strict=True))
MASK = "mask"

Recipe = Callable[[Layer], Mapping[str, Any]]
"""From a layer of settings, a mask's recipe with its values read."""


@dataclass(frozen=True)
class StudyFile:
    """A study file as it is written."""

    path: Path
    sections: Mapping[str, Mapping[str, Any]]
    """By section its keys with values as text."""
    marks: Marks

    def layers(self, section: str) -> list[Layer]:
        """A section as layers of settings."""
        below = {where[1:]: mark for where, mark in self.marks.items() if where[0] == section and len(where) > 1}
        return layers_of(self.sections[section], below)

    def search(self, recipe: Recipe) -> dict[str, Any]:
        """What is searched, with ranges and masks' recipes read; all else stays text, until a run takes it.

        Raises:
            ExpungeError: a range whose numbers are none, or a recipe that is none.
        """
        found: dict[str, Any] = {}
        for name, given in self.sections[SEARCH].items():
            where: Where = (SEARCH, name)
            if isinstance(given, Mapping):
                found[name] = {
                    key: convert(value, _KINDS.get(key, str), (*where, key), self.marks) for key, value in given.items()
                }
            elif isinstance(given, list) and name == MASK:
                found[name] = [self._mask(value, (*where, i), recipe) for i, value in enumerate(given)]
            else:
                found[name] = given
        return found

    def fixed_mask(self, recipe: Recipe) -> Mapping[str, Any] | None:
        """The recipe of the mask of all runs; None where it is a file, or there is none."""
        given = self.sections[SETTINGS].get(MASK)
        return self._mask(given, (SETTINGS, MASK), recipe) if isinstance(given, Mapping) else None

    def _mask(self, given: Any, where: Where, recipe: Recipe) -> Any:
        if not isinstance(given, Mapping):
            return given
        below = {w[len(where) :]: mark for w, mark in self.marks.items() if w[: len(where)] == where}
        return recipe(Layer(dict(given), below))

    def space(self, recipe: Recipe) -> Space:
        """What is searched.

        Raises:
            ExpungeError: as `Space.read`; the message names the line.
        """
        try:
            return Space.read(self.search(recipe), self.sections[SETTINGS])
        except ExpungeError as error:
            name = str(error).partition(" ")[0].rstrip(":")
            came_from = origin((SEARCH, name), self.marks)
            if not came_from or "(from " in str(error):
                raise
            raise ExpungeError(f"{error} (from {came_from})") from None

    def point_layers(self, point: Mapping[str, Any], space: Space) -> list[Layer]:
        """The settings of a point as layers, each with the line that it stands on; recipes of masks are left out."""
        by_name = {parameter.name: parameter for parameter in space.parameters}
        found: list[Layer] = []
        for name, value in point.items():
            parameter = by_name[name]
            if not isinstance(parameter.values, Choices):
                mark = Mark(origin((SEARCH, name), self.marks))
                found += layers_of({parameter.setting: repr(value)}, {(parameter.setting,): mark})
                continue
            if isinstance(parameter.values.values[str(value)], Mapping) and parameter.setting == MASK:
                continue
            texts = self.sections[SEARCH][name]
            number = [label(text) for text in texts].index(str(value))
            where = (SEARCH, name, number)
            marks = {(parameter.setting, *w[3:]): mark for w, mark in self.marks.items() if w[:3] == where}
            found += layers_of({parameter.setting: texts[number]}, marks)
        return found


def read_study_file(path: str | Path) -> StudyFile:
    """Read a study file; of its values the shape alone is checked.

    Raises:
        ExpungeError: it cannot be read, is no YAML, or has other sections.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExpungeError(f"no study file at '{path}'.") from None
    except (OSError, ValueError) as error:
        raise ExpungeError(f"cannot read the study file '{path}': {error}.") from error
    tree, marks = read_yaml(text, str(path))
    if not isinstance(tree, Mapping):
        raise ExpungeError(f"the study file '{path}' must have the sections {', '.join((SETTINGS, SEARCH, STUDY))}.")
    sections: dict[str, Mapping[str, Any]] = {STUDY: {}}
    for name, held in tree.items():
        if name not in (SETTINGS, SEARCH, STUDY):
            raise unknown("section of a study file", name, (SETTINGS, SEARCH, STUDY), came_from=_first(name, marks))
        if not isinstance(held, Mapping):
            raise ExpungeError(f"{name} must hold settings, one a line (from {_first(name, marks)}).")
        sections[name] = held
    if missing := [name for name in (SETTINGS, SEARCH) if name not in sections]:
        raise ExpungeError(f"the study file '{path}' lacks the section {missing[0]}.")
    return StudyFile(path, sections, marks)


def _first(name: str, marks: Marks) -> str:
    """Where a section begins."""
    return next((mark.origin for where, mark in marks.items() if where[0] == name), "")


def refuse(layers: Sequence[Layer], names: Mapping[str, str]) -> None:
    """Raise for settings that have no place where they stand.

    Args:
        layers: what was given.
        names: setting to why it has none.
    """
    for layer in layers:
        for name in layer.tree:
            if name in names:
                came_from = origin((name,), layer.marks)
                raise ExpungeError(f"{name} has no place in a study (from {came_from}): {names[name]}")
