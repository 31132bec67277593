"""A verb: words become one checked configuration, and that one call; errors become messages and exit codes."""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import typer

from expunge.cli.arguments import parse
from expunge.cli.console import complain, plain_warnings, say
from expunge.cli.help import help_text
from expunge.config.resolve import Resolved, resolve
from expunge.config.settings import Setting, settings
from expunge.core.checks import ExpungeError
from expunge.core.surface import command_line

T = TypeVar("T")

USER_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call of a verb."""

    resolved: Resolved[T]
    positional: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()

    @property
    def config(self) -> T:
        """The checked settings."""
        return self.resolved.config

    @property
    def dry_run(self) -> bool:
        """Only show what would happen?"""
        return "dry_run" in self.flags

    @property
    def overwrite(self) -> bool:
        """Replace what is in the output folder?"""
        return "overwrite" in self.flags

    @property
    def resume(self) -> bool:
        """Go on with what is in the output folder?"""
        return "resume" in self.flags


@dataclass(frozen=True, kw_only=True)
class Verb(Generic[T]):
    """What a verb takes and what it calls."""

    name: str
    """As it is called: `unlearn`, `data show-mask`."""
    config: type[T]
    run: Callable[[Call[T]], int]
    """Returns the exit code; its docstring is the verb's help."""
    own_settings: tuple[Setting, ...] = ()
    """Settings that are no field of `config`, such as the parameters of an experiment."""
    extra_settings: Callable[[dict[str, Any]], Sequence[Setting]] = lambda values: ()
    """From the values so far, the settings of what they name, such as a method's hyperparameters."""
    unknown_hint: Callable[[str], str] | None = None
    """From an unknown setting, a sentence that says what it would be a setting of."""
    flags: tuple[str, ...] = ()
    positional: str = ""
    """What it takes besides settings, such as `RUN...`; empty for nothing."""
    note: str = ""
    """A paragraph for its help."""
    choose: "Callable[[Sequence[str]], tuple[Verb[Any], Sequence[str]]] | None" = None
    """From its words, the verb that they are for and what is left of them, where the first word names one."""

    @property
    def about(self) -> str:
        """What the verb does."""
        return inspect.getdoc(self.run) or ""


def register(app: typer.Typer, verb: Verb[Any]) -> None:
    """Add a verb to a typer application."""

    @app.command(
        verb.name.rpartition(" ")[2],
        help=verb.about,
        short_help=verb.about.partition("\n")[0],
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
    def command(words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        raise typer.Exit(execute(verb, words or []))


def execute(verb: Verb[Any], words: Sequence[str]) -> int:
    """Run a verb on the words that followed it; the exit code.

    What the user can mend becomes a message and 2, Ctrl-C becomes 130; anything else is a bug and keeps its traceback.
    """
    with plain_warnings(), command_line():
        try:
            if verb.choose is not None:
                verb, words = verb.choose(words)
            return _execute(verb, words)
        except ExpungeError as error:
            complain(f"error: {error}")
            return USER_ERROR
        except KeyboardInterrupt as interrupt:
            complain(f"interrupted: {interrupt}" if str(interrupt) else "interrupted")
            return INTERRUPTED


def _execute(verb: Verb[Any], words: Sequence[str]) -> int:
    known = {s.name: s for s in (*verb.own_settings, *settings(verb.config))}
    flags = (*verb.flags, "help")
    words = ["--help" if word == "-h" else word for word in words]
    arguments = parse(words, known=known, flags=flags, positional=bool(verb.positional))
    if "help" in arguments.flags:
        say(
            help_text(
                verb.name,
                verb.about,
                [*known.values(), *_named(verb, known, arguments.overrides)],
                flags=flags,
                positional=verb.positional,
                note=verb.note,
            )
        )
        return 0
    resolved = resolve(
        verb.config,
        files=arguments.files,
        overrides=arguments.overrides,
        extra_settings=lambda values: [*verb.own_settings, *verb.extra_settings(values)],
        unknown_hint=verb.unknown_hint,
    )
    return verb.run(Call(resolved, tuple(arguments.positional), frozenset(arguments.flags)))


def _named(verb: Verb[Any], known: dict[str, Setting], overrides: Sequence[str]) -> list[Setting]:
    """Settings of what the words name next to `--help`: `expunge unlearn method=rmu --help` shows those of rmu."""
    given = dict(override.split("=", 1) for override in overrides)
    if not given:
        return []
    values = {s.name: given.get(s.name, s.default) for s in known.values()}
    return [setting for setting in verb.extra_settings(values) if setting.name not in known]


def forgiving_output() -> None:
    """Let text of models and data through terminals that cannot show all of it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
