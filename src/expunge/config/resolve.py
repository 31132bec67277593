"""Typed configuration: dataclasses are the truth, YAML files and `key=value` fill them in.

Order: defaults < preset < files, in the order given < command line. Every value is read by the declared type of its
field, so `1e-5` is a number and `no` stays text where text is due, and where it came from is kept for messages and dry
runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from expunge.config.convert import convert
from expunge.config.presets import with_preset
from expunge.config.references import filled_in
from expunge.config.settings import DEFAULT, REQUIRED, Setting, settings
from expunge.config.yaml_source import Layer, Mark, Marks, Where, joined, origin, read_file, read_override
from expunge.core.checks import ExpungeError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """A finished configuration and where each of its values came from."""

    config: T
    extra: dict[str, Any]
    """Settings that are no field, such as a method's hyperparameters; only those that were given."""
    known: tuple[Setting, ...]
    """Every setting that could have been given: the fields, then the further ones."""
    origins: dict[str, str]
    """By key (`seed`, `columns.question`): `default`, `default of npo`, `preset muse/llama-2-7b`, `run.yaml, line 3` or
    `command line`."""


def resolve(
    cls: type[T],
    *,
    files: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    extra_settings: Callable[[dict[str, Any]], Sequence[Setting]] | None = None,
    unknown_hint: Callable[[str], str] | None = None,
    further_layers: Callable[[Sequence[Layer]], Sequence[Layer]] | None = None,
    verb: str = "",
) -> Resolved[T]:
    r"""Fill a configuration dataclass from its defaults, a preset, YAML files and overrides; later ones win.

    A value may refer to another one as `${key}`; `\${` is a plain `${`. A part of a mapping
    that is set by a dotted key (`columns.question=q`) joins the other parts; a whole mapping in a file joins them too,
    and one on the command line replaces them.

    Args:
        cls: the dataclass.
        files: YAML files with its fields as keys.
        overrides: `key=value`, dotted for mappings.
        extra_settings: from the values so far, further settings that are known; a field of the same name goes first.
        unknown_hint: from an unknown name, a sentence that says where it would be known; empty where it knows none.
        further_layers: from the layers of files and overrides, those with what they name besides, such as an earlier
            run.
        verb: what the settings are for, such as `unlearn`: `preset=NAME` then puts a preset's settings for it below
            those of files and overrides. Empty: `preset` means nothing here.

    Raises:
        ExpungeError: an unreadable file, an unknown key, a value of the wrong type, a missing one, or one that the
            dataclass refuses; the message says which key it is and where it came from.
    """
    known = {setting.name: setting for setting in settings(cls)}
    # Defaults are there for ${key} to find, as text like everything else.
    tree: dict[str, Any] = {
        s.name: _as_text(s.default) for s in known.values() if isinstance(s.default, str | int | float | None)
    }
    layers = [layer for file in files for layer in read_file(Path(file))] + [read_override(text) for text in overrides]
    if further_layers:
        layers = [*further_layers(layers)]
    if verb:
        layers = with_preset(verb, tree, layers)
    marks = _overlaid(layers)
    given = dict.fromkeys(name for layer in layers for name in layer.tree)
    tree = filled_in(joined(tree, layers), marks)

    def read(settings_by_name: Mapping[str, Setting]) -> dict[str, Any]:
        found = {s.name: s.default for s in settings_by_name.values() if s.default is not REQUIRED}
        named = [name for name in given if name in settings_by_name]
        return found | {name: convert(tree[name], settings_by_name[name].type, (name,), marks) for name in named}

    values = read(known)
    if known.keys() >= given.keys():
        _check_complete(known, values)  # before `extra_settings` imports what the values name
    extra: dict[str, Setting] = {}
    for setting in extra_settings(values) if extra_settings else ():
        if setting.name not in known:
            extra.setdefault(setting.name, setting)
    for name in given:
        if name not in known and name not in extra:
            hint = unknown_hint(name) if unknown_hint else ""
            raise unknown("setting", name, [*known, *extra], came_from=origin((name,), marks), hint=hint)
    further = read(extra)
    _check_complete(known | extra, values | further)

    origins = {s.name: s.default_origin for s in (known | extra).values()}
    origins |= {name: origin((name,), marks) for name in given}
    origins |= {".".join(map(str, where)): mark.origin for where, mark in marks.items()}
    config = _made(cls, values, origins)
    return Resolved(config, {k: v for k, v in further.items() if k in given}, (*(known | extra).values(),), origins)


def _overlaid(layers: Sequence[Layer]) -> Marks:
    """The marks of the values that are left once later layers have replaced what they replace."""
    marks: dict[Where, Mark] = {}
    for layer in layers:
        # A value takes the place of all below it, and of what stood above it when that was no mapping.
        replaced = [w for w in marks if any(w[: len(new)] == new[: len(w)] for new in layer.marks)]
        marks = {w: mark for w, mark in marks.items() if w not in replaced} | layer.marks
    return marks


def _as_text(value: str | float | bool | None) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_complete(known: Mapping[str, Setting], values: Mapping[str, Any]) -> None:
    missing = [setting for name, setting in known.items() if name not in values]
    if missing:
        names = ", ".join(s.name for s in missing)
        lines = "".join(f"\n  {s.name}=...  {s.doc}" for s in missing)
        raise ExpungeError(f"missing: {names}. Give them as key=value or in a --config file.{lines}")


def _made(cls: type[T], values: dict[str, Any], origins: dict[str, str]) -> T:
    try:
        return cls(**values)
    except ExpungeError as error:
        # By convention the message of a check begins with the name of what it checks.
        came_from = origins.get(str(error).partition(" ")[0], DEFAULT)
        if came_from == DEFAULT:
            raise
        raise ExpungeError(f"{error} (from {came_from})") from None
