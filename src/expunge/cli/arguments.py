"""Words of a command line to flags, files, overrides and positional arguments; no setting is looked at yet."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from expunge.cli.help import FLAGS
from expunge.config.convert import FALSE, TRUE
from expunge.config.settings import Setting
from expunge.config.yaml_source import COMMAND_LINE
from expunge.core.checks import ExpungeError, nearest, unknown

_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=", re.ASCII)


@dataclass
class Arguments:
    """What stood after a verb."""

    files: list[str] = field(default_factory=list)
    """Of `--config`, in order."""
    overrides: list[str] = field(default_factory=list)
    """Each `key=value`."""
    flags: set[str] = field(default_factory=set)
    positional: list[str] = field(default_factory=list)


def parse(
    words: Sequence[str], *, known: Mapping[str, Setting], flags: Collection[str], positional: bool = False
) -> Arguments:
    """Sort the words that follow a verb.

    `key=value`, `--key=value` and `--key value` are the same, and so are `-` and `_` in a key. A setting that is true
    or false may stand alone as `--key`.

    Args:
        words: what followed the verb.
        known: settings by name, to know which of them are true or false.
        flags: names that take no value: `dry_run`, `overwrite`, `resume`, `help`.
        positional: allow words that are neither.

    Raises:
        ExpungeError: a key without a value, a value for a flag, or a word that is neither; the message says which.
    """
    found = Arguments()
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--") and not _OVERRIDE.match(word):
            if not positional:
                raise ExpungeError(
                    f"'{word}' is neither key=value nor --key value. A key goes in front of it: key={word}"
                )
            found.positional.append(word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        first, dot, rest = key.partition(".")
        name = first.replace("-", "_") + dot + rest
        if name in flags:
            _add_flag(found, name, value if equals else "true")
        elif not equals and name in known and known[name].type is bool and not _is_truth_value(left):
            found.overrides.append(f"{name}=true")
        else:
            if not equals:
                value = _value(name, left, known, flags)
            if name == "config":
                found.files.append(value)
            else:
                found.overrides.append(f"{name}={value}")
    return found


def _is_truth_value(left: Sequence[str]) -> bool:
    return bool(left) and left[0].lower() in (*TRUE, *FALSE)


def _add_flag(found: Arguments, name: str, value: str) -> None:
    if value.lower() not in (*TRUE, *FALSE):
        raise ExpungeError(f"--{name.replace('_', '-')} takes no value; got {value!r}.")
    if value.lower() in TRUE:
        found.flags.add(name)


def _value(name: str, left: list[str], known: Mapping[str, Setting], flags: Collection[str]) -> str:
    following = left[0] if left else ""
    names_setting = following.partition("=")[0].replace("-", "_") in known and "=" in following
    if not following or following.startswith("--") or names_setting:
        if name in FLAGS:
            raise ExpungeError(f"this command has no --{name.replace('_', '-')}.")
        if name not in known and nearest(name, [*known, *flags]):
            raise unknown("setting", name, [*known, *flags], came_from=COMMAND_LINE)
        raise ExpungeError(f"--{name.replace('_', '-')} needs a value: {name}=...")
    return left.pop(0)
