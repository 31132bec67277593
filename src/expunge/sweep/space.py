"""What a study tries: settings with their values. A point is one value for each setting that takes part in it."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.core.checks import ExpungeError, require_finite, unknown

Point = dict[str, str | int | float]
"""By name of a parameter its number, or the label of its choice: what JSON holds and a storage takes."""

NAMING = ("method", "retain_loss", "adapter")
"""Settings whose values bring settings of their own."""
SEED = "seed"
RANGE_KEYS = ("low", "high", "log", "whole")


@dataclass(frozen=True)
class Choices:
    """A list of values, each known by a label."""

    values: Mapping[str, Any]

    @classmethod
    def of(cls, values: Sequence[Any], name: str) -> "Choices":
        """The choices of a list.

        Raises:
            ExpungeError: the list is empty, or a value is in it twice.
        """
        labels = [label(value) for value in values]
        if not labels:
            raise ExpungeError(f"{name} has an empty list of values. Name at least one.")
        if twice := [text for text in labels if labels.count(text) > 1]:
            raise ExpungeError(f"{name} lists {twice[0]} twice.")
        return cls(dict(zip(labels, values, strict=True)))


@dataclass(frozen=True)
class Range:
    """All numbers between two."""

    low: float
    high: float
    log: bool = False
    """Are factors alike, rather than differences?"""
    whole: bool = False
    """Whole numbers alone?"""

    def check(self, name: str) -> None:
        """Raise unless it is a range."""
        for what, value in (("low", self.low), ("high", self.high)):
            require_finite(f"{name}: {what}", value)
            if self.whole and value != int(value):
                raise ExpungeError(f"{name}: {what} must be a whole number, as whole is true; got {value}.")
        if not self.low < self.high:
            raise ExpungeError(f"{name}: low must be below high; got {self.low:g} and {self.high:g}.")
        if self.log and not self.low > 0:
            raise ExpungeError(f"{name}: low must be above 0 where log is true; got {self.low:g}.")

    def drawn(self, numbers: random.Random) -> int | float:
        """A number of the range, each as likely as any other (each factor, with `log`)."""
        if self.whole and not self.log:
            return numbers.randint(int(self.low), int(self.high))
        # Half a step beyond both ends, so that the first and the last whole number are as likely as those between.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = math.exp(numbers.uniform(math.log(low), math.log(high))) if self.log else numbers.uniform(low, high)
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value


@dataclass(frozen=True)
class Parameter:
    """One setting that a study varies."""

    name: str
    """As it is written: `learning_rate`, `npo.beta`."""
    values: Choices | Range
    owner: str = ""
    """The method, retain loss or adapter with which alone it takes part; empty: with all."""

    @property
    def setting(self) -> str:
        """The name of the setting: `beta` of `npo.beta`."""
        return self.name.removeprefix(f"{self.owner}.") if self.owner else self.name


def label(value: Any) -> str:
    """A value as text: text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise ExpungeError(f"a study holds numbers, texts, lists and mappings of them; got {value!r:.80}.") from None


@dataclass(frozen=True)
class Space:
    """All that a study may try."""

    parameters: tuple[Parameter, ...]
    """Those that name methods, retain losses and adapters first."""
    fixed: Mapping[str, str]
    """The method, retain loss and adapter of every point, where no parameter names them."""

    @classmethod
    def read(cls, search: Mapping[str, Any], fixed: Mapping[str, Any]) -> "Space":
        """The space that a mapping describes.

        Args:
            search: setting to a list of values or to `{low, high, log, whole}`; `npo.beta` takes part with npo alone.
            fixed: the settings of all runs.

        Raises:
            ExpungeError: nothing to search, no values, values twice, a bad range, or an owner that no point has.
        """
        if not search:
            raise ExpungeError(
                "search names no setting. Give at least one with its values: learning_rate: [1e-5, 1e-4]"
            )
        named = {name: str(fixed[name]) for name in NAMING if fixed.get(name) is not None and name not in search}
        owners = {*named.values(), *(text for name in NAMING for text in _labels(search.get(name)))}
        found = []
        for name, given in search.items():
            owner, dot, _ = name.rpartition(".")
            if dot and owner not in owners:
                raise unknown(f"method, retain loss or adapter of this study (for {name})", owner, owners)
            if not dot and name in fixed:
                raise ExpungeError(f"{name} is a setting of all runs and searched, too. Leave one out.")
            found.append(Parameter(name, _values(name, given), owner if dot else ""))
        for parameter in found:
            if not parameter.owner and any(other.owner and other.setting == parameter.name for other in found):
                raise ExpungeError(f"{parameter.name} is searched for all, and for one method as well. Leave one out.")
            if parameter.name in NAMING and isinstance(parameter.values, Range):
                raise ExpungeError(f"{parameter.name} needs a list of names.")
        return cls(tuple(sorted(found, key=lambda p: p.name not in NAMING)), named)

    def active(self, point: Mapping[str, Any]) -> list[Parameter]:
        """The parameters that take part in a point, as far as what it names already says."""
        named = {str(point.get(name, self.fixed.get(name))) for name in NAMING}
        return [parameter for parameter in self.parameters if not parameter.owner or parameter.owner in named]

    def grid(self) -> Iterator[Point]:
        """Every combination, the last setting changing first.

        Raises:
            ExpungeError: a setting has a range, not a list.
        """
        for parameter in self.parameters:
            if isinstance(parameter.values, Range):
                raise ExpungeError(
                    f"a grid tries lists of values, and {parameter.name} has a range. Give it a list, or take another "
                    "sampler: random, tpe or cmaes."
                )
        return self._extended({}, 0)

    def _extended(self, begun: Point, at: int) -> Iterator[Point]:
        if at == len(self.parameters):
            yield dict(begun)
            return
        parameter = self.parameters[at]
        if parameter not in self.active(begun):
            yield from self._extended(begun, at + 1)
            return
        assert isinstance(parameter.values, Choices)
        for text in parameter.values.values:
            yield from self._extended({**begun, parameter.name: text}, at + 1)

    def drawn(self, number: int, seed: int) -> Point:
        """Point `number` of a random search: the same for every worker, whatever came before."""
        numbers = random.Random(f"{seed}:{number}")
        point: Point = {}
        for parameter in self.parameters:
            if parameter in self.active(point):
                values = parameter.values
                point[parameter.name] = (
                    values.drawn(numbers) if isinstance(values, Range) else numbers.choice([*values.values])
                )
        return point

    def corners(self) -> list[Point]:
        """Points that hold each value at least once: one setting at a time, for each method, retain loss and adapter.

        Of a range both ends are taken. What these points allow, others need not, but a name or value that no run takes
        is found.
        """
        naming = [p for p in self.parameters if p.name in NAMING]
        found: dict[str, Point] = {}
        for texts in itertools.product(*(_shown(p.values) for p in naming)):
            begun: Point = dict(zip((p.name for p in naming), texts, strict=True))
            others = [p for p in self.active(begun) if p.name not in NAMING]
            base = begun | {p.name: _shown(p.values)[0] for p in others}
            for parameter in others or naming[:1]:
                for value in _shown(parameter.values) if others else [base[parameter.name]]:
                    point = {**base, parameter.name: value}
                    found.setdefault(json.dumps(point, sort_keys=True), point)
        return [*found.values()]

    def settings(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What a point sets, by name of the setting, with the values that its labels stand for."""
        by_name = {parameter.name: parameter for parameter in self.parameters}
        found = {}
        for name, value in point.items():
            parameter = by_name[name]
            values = parameter.values
            found[parameter.setting] = values.values[str(value)] if isinstance(values, Choices) else value
        return found

    def check(self, point: Mapping[str, Any]) -> None:
        """Raise for a point that is none of this space, such as one of another study."""
        names = {parameter.name for parameter in self.active(point)}
        if names != set(point):
            raise ExpungeError(
                f"a point of this study sets {', '.join(sorted(names))}; got {', '.join(sorted(point))}."
            )
        for parameter in self.active(point):
            value, values = point[parameter.name], parameter.values
            known = (
                str(value) in values.values
                if isinstance(values, Choices)
                else isinstance(value, int | float) and values.low <= value <= values.high
            )
            if not known:
                raise ExpungeError(f"{parameter.name}={value} is none of the values that this study tries.")


def recipe(point: Mapping[str, Any]) -> str:
    """A point without its seed, as a key: runs that differ by their seed have the same."""
    return json.dumps({name: value for name, value in sorted(point.items()) if name != SEED}, ensure_ascii=False)


def _labels(given: Any) -> list[str]:
    return [label(value) for value in given] if isinstance(given, list | tuple) else []


def _values(name: str, given: Any) -> Choices | Range:
    if isinstance(given, list | tuple):
        return Choices.of(given, name)
    if not isinstance(given, Mapping) or not {"low", "high"} <= {*given}:
        raise ExpungeError(f"{name} needs a list of values, or a range: {{low: 1e-6, high: 1e-4, log: true}}")
    for key in given:
        if key not in RANGE_KEYS:
            raise unknown(f"part of a range (for {name})", str(key), RANGE_KEYS)
    found = Range(**given)
    found.check(name)
    return found


def _shown(values: Choices | Range) -> list[Any]:
    """Every label of a list; the ends of a range."""
    if isinstance(values, Choices):
        return [*values.values]
    return [round(end) if values.whole else end for end in (values.low, values.high)]
