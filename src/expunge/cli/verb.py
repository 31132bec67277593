"""A verb: words become one checked configuration, and that one call; errors become messages and exit codes."""

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer

from expunge.cli import launch
from expunge.cli.arguments import Arguments, parse
from expunge.cli.console import complain, plain_warnings, say
from expunge.cli.errors import answer, fault
from expunge.cli.help import help_text
from expunge.config import presets
from expunge.config.resolve import Resolved, resolve
from expunge.config.settings import Setting, settings
from expunge.config.yaml_source import Layer
from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.core.lock import lock_file, locked
from expunge.core.output import check_place
from expunge.core.progress import first_process, processes
from expunge.core.surface import command_line

T = TypeVar("T")

USER_ERROR = 2
FAULT = 70
"""Of ours: an error that nobody foresaw."""
INTERRUPTED = 130
OUTPUTS = ("output", "scores")
"""Settings that name what a verb writes."""
DRY_RUN = "dry run: loading libraries and reading the inputs; nothing is written"
FLAGS_OF_ALL = ("allow_code", "help")


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
    further_layers: Callable[[Sequence[Layer]], Sequence[Layer]] | None = None
    """From the layers of settings that were given, those with what they name besides, such as an earlier run."""
    unknown_hint: Callable[[str], str] | None = None
    """From an unknown setting, a sentence that says what it would be a setting of."""
    replaces_output: bool = True
    """Does `--overwrite` remove the output folder, instead of writing into it?"""
    locks_output: bool = True
    """Does one process alone write into the output at a time? Otherwise the verb sees to it."""
    shared: bool = False
    """Do the processes that a launcher started share its work?"""
    flags: tuple[str, ...] = ()
    positional: str = ""
    """What it takes besides settings, such as `RUN...`; empty for nothing."""
    positional_is: str = ""
    """Setting that its one positional word is short for; empty: the words are those of the call."""
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

    def complete(incomplete: str) -> list[str]:
        known = (f"{setting.name}=" for setting in (*verb.own_settings, *settings(verb.config)))
        return [word for word in known if word.startswith(incomplete)]

    @app.command(
        verb.name.rpartition(" ")[2],
        help=verb.about,
        short_help=verb.about.partition("\n")[0],
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
    def command(words: Annotated[list[str] | None, typer.Argument(autocompletion=complete)] = None) -> None:
        raise typer.Exit(execute(verb, words or []))


def execute(verb: Verb[Any], words: Sequence[str]) -> int:
    """Run a verb on the words that followed it; the exit code.

    What the user can mend becomes a message and 2, Ctrl-C becomes 130; anything else is a fault of ours, which shows
    its traceback and says so.
    """
    with plain_warnings(), command_line(), catalogue.guarded(_gate(words)):
        try:
            if verb.choose is not None:
                verb, words = verb.choose(words)
            return _execute(verb, words)
        except ExpungeError as error:
            complain(f"error: {error}")
            return USER_ERROR
        except BrokenPipeError:
            raise  # whoever read the output has stopped, which is no error
        except Exception as error:
            if (said := answer(error, verb.name)) is None:
                complain(fault(error))
                return FAULT
            complain(f"error: {said}")
            return USER_ERROR
        except KeyboardInterrupt as interrupt:
            if first_process():
                complain(f"interrupted: {interrupt}" if str(interrupt) else "interrupted")
            return INTERRUPTED


def _gate(words: Sequence[str]) -> catalogue.Gate:
    """Lets in code from outside that the words name, or any with --allow-code, and names it before it runs.

    What a configuration file, a manifest or a log names is text of others until the one who types says otherwise.
    """
    free, said = "--allow-code" in words or "--allow_code" in words, set[str]()

    def gate(what: str, path: str) -> None:
        named = re.compile(rf"(?<!\w){re.escape(path)}(?!\w)")
        if not free and not any(named.search(word) for word in words):
            raise ExpungeError(
                f"the {what} {path} is code from outside that a file names, and not this command. Read that code; to "
                "run it, name it in the command, or add --allow-code."
            )
        if path not in said and first_process():
            said.add(path)
            complain(f"running code from {path}")

    return gate


def _execute(verb: Verb[Any], words: Sequence[str]) -> int:
    launching = launch.SETTINGS if verb.shared else ()
    known = {s.name: s for s in (*verb.own_settings, *settings(verb.config), *launching)}
    flags = (*verb.flags, *FLAGS_OF_ALL)
    words = ["--help" if word == "-h" else word for word in words]
    arguments = parse(words, known=known, flags=flags, positional=bool(verb.positional))
    if verb.positional_is:
        _take_positional(verb, arguments)
    if "help" in arguments.flags:
        say(
            help_text(
                verb.name,
                verb.about,
                [*known.values(), *_named(verb, known, arguments.overrides)],
                flags=flags,
                positional=verb.positional,
                note=verb.note,
                presets=presets.exist_for(verb.name),
            )
        )
        return 0
    if "dry_run" in arguments.flags:
        complain(DRY_RUN)  # loading libraries takes seconds, in which nothing else is said
    launched = launch.taken(arguments, verb.name) if verb.shared else None
    resolved = resolve(
        verb.config,
        files=arguments.files,
        overrides=arguments.overrides,
        extra_settings=lambda values: [*verb.own_settings, *verb.extra_settings(values)],
        unknown_hint=verb.unknown_hint,
        further_layers=verb.further_layers,
        verb=verb.name,
    )
    for name, values in _given_again(arguments.overrides):
        complain(f"warning: {name} is given {len(values)} times; the last one counts: {name}={values[-1]}")
    call = Call(resolved, tuple(arguments.positional), frozenset(arguments.flags))
    _check_apart(verb, call)
    if launched is not None:
        return _launched(verb, call, launched, launch.words_of(arguments))
    with ExitStack() as held:
        for output in _outputs(call) if verb.locks_output and not call.dry_run else []:
            held.enter_context(locked(output))
        if verb.shared and not call.dry_run:
            _join()
        return verb.run(call)


def _launched(verb: Verb[Any], call: Call[Any], launched: launch.LaunchConfig, words: Sequence[str]) -> int:
    """Start the processes that share the work of a call, or show what they would do."""
    if not call.dry_run:
        return launch.start(launched, verb.name, words)
    module, command = launched.command(verb.name, words)
    say(f"launch: python -m {module} {shlex.join(command)}")
    with launch.as_if_launched(launched):
        return verb.run(call)


def _join() -> None:
    if processes() > 1:  # otherwise torch is not loaded yet
        from expunge.core.distributed import join

        join()


def _take_positional(verb: Verb[Any], arguments: Arguments) -> None:
    """Have the one positional word be a setting like any other."""
    if len(arguments.positional) > 1:
        raise ExpungeError(
            f"{verb.name} takes one {verb.positional_is}; got {', '.join(arguments.positional)}. All else is key=value."
        )
    arguments.overrides[:0] = [f"{verb.positional_is}={word}" for word in arguments.positional]
    arguments.positional.clear()


def _given_again(overrides: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Settings that the command gives more than once, with their values."""
    given: dict[str, list[str]] = {}
    for name, _, value in (override.partition("=") for override in overrides):
        given.setdefault(name, []).append(value)
    return ((name, values) for name, values in given.items() if len(values) > 1)


def _outputs(call: Call[Any]) -> list[str]:
    """The files and folders that a verb writes, which one process at a time may do."""
    values = {setting.name: setting.default for setting in call.resolved.known} | call.resolved.extra
    named = (getattr(call.config, name, values.get(name)) for name in OUTPUTS)
    return [path for path in named if isinstance(path, str)]


def _check_apart(verb: Verb[Any], call: Call[Any]) -> None:
    """Raise where an output cannot be written, is an input of the same command, or would be removed with one in it."""
    outputs = _outputs(call)
    for name in outputs:
        check_place(Path(name))
        lock_file(name)  # raises for what has no name
    if len({Path(output).absolute() for output in outputs}) < len(outputs):
        raise ExpungeError(f"two outputs of this command have the same name, {outputs[0]}. Name another one.")
    values = {name: getattr(call.config, name) for name in type(call.config).__dataclass_fields__}
    values = {name: value for name, value in (values | call.resolved.extra).items() if name not in OUTPUTS}
    inputs = [*call.positional, *_texts(values)]
    for output in map(Path, outputs):
        for path in (Path(text) for text in inputs if _is_there(text)):
            same = path.resolve() == output.resolve()
            within = call.overwrite and verb.replaces_output and output.resolve() in path.resolve().parents
            if (same and (path.is_file() or (call.overwrite and verb.replaces_output))) or within:
                raise ExpungeError(
                    f"the output {output} {'is' if same else 'holds'} an input of this command, {path}, which would be "
                    "lost. Choose another output."
                )


def _is_there(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False  # no name of a file


def _texts(value: Any) -> Iterator[str]:
    """The texts in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


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
