"""Help of a verb: every setting with type, default and its sentence, grouped by what it belongs to."""

import shutil
import textwrap
from collections.abc import Sequence
from itertools import groupby

from expunge.config.convert import describe
from expunge.config.settings import REQUIRED, Setting

FLAGS = {
    "dry_run": "Show the resolved settings and what would happen, check settings and data, and stop.",
    "overwrite": "Replace what an earlier run wrote into the output folder.",
    "resume": "Resume the interrupted run in the output folder.",
    "allow_code": "Run code of yours that a configuration file names as package.module:function.",
    "help": "Show this text.",
}


def help_text(
    verb: str,
    about: str,
    known: Sequence[Setting],
    *,
    flags: Sequence[str],
    positional: str = "",
    note: str = "",
    presets: bool = False,
) -> str:
    """The text that `--help` shows.

    Args:
        verb: as it is called, `unlearn`.
        about: what it does.
        known: its settings; those of a group stand together, groups with something required first.
        flags: keys of `FLAGS` that it has.
        positional: what it takes besides settings, such as `RUN...`.
        note: paragraphs after the settings; one that is indented keeps its lines.
        presets: there are presets for it.
    """
    width = _width()
    words = ["expunge", verb, positional, "[--config FILE]...", "[key=value | --key value]..."]
    usage = " ".join([w for w in words if w] + [f"[{_option(f)}]" for f in flags if f != "help"])
    lines = described(f"Usage: {usage}", about, known)
    if note:
        lines += ["", *_paragraphs(note, width)]
    lines += ["", "Options"]
    lines += _entry(
        "--config FILE", "Settings from a YAML file; of several the later ones win, then the command line.", width
    )
    if presets:
        lines += _entry(
            "preset=NAME",
            "Settings that a paper published, below all others: `expunge list presets` shows them.",
            width,
        )
    for flag in flags:
        lines += _entry(_option(flag), FLAGS[flag], width)
    return "\n".join(lines)


def described(head: str, about: str, known: Sequence[Setting]) -> list[str]:
    """What something does and its settings, as lines as wide as the terminal; arguments as of `help_text`."""
    width = _width()
    lines = [head, "", *_paragraphs(about, width)]
    groups = [(name, list(members)) for name, members in groupby(known, key=lambda s: s.group)]
    for group, members in sorted(groups, key=lambda g: all(s.default is not REQUIRED for s in g[1])):
        lines += ["", *textwrap.wrap(group, width)]
        for setting in members:
            lines += _entry(_signature(setting), setting.doc, width)
    return lines


def _width() -> int:
    return max(60, min(120, shutil.get_terminal_size().columns))


def _option(flag: str) -> str:
    return f"--{flag.replace('_', '-')}"


def _signature(setting: Setting) -> str:
    if setting.default is REQUIRED:
        return f"{setting.name}: {describe(setting.type)}, required"
    if setting.default is None:
        return f"{setting.name}: {describe(setting.type)}"
    return f"{setting.name}: {describe(setting.type)} = {shown(setting.default)}"


def shown(value: object) -> str:
    """A value as it could be written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value)) or "[]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    return str(value)


def _entry(head: str, text: str, width: int) -> list[str]:
    return [
        f"  {head}",
        *textwrap.wrap(text, width, break_on_hyphens=False, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]


def _paragraphs(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for i, paragraph in enumerate(text.split("\n\n")):
        kept = paragraph.split("\n") if paragraph.startswith(" ") else textwrap.wrap(" ".join(paragraph.split()), width)
        lines += ([""] if i else []) + kept
    return lines
