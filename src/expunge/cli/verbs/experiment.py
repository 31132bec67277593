"""`expunge experiment`."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from expunge.cli.console import draw, heading, say, table
from expunge.cli.help import FLAGS
from expunge.cli.inputs import corpus_of, source_settings
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs.list import summary
from expunge.config.settings import REQUIRED, Setting, argument_docs, description, parameters
from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.core.format import columns
from expunge.core.progress import shown
from expunge.data.data_config import CorpusConfig
from expunge.experiments import Result, Table

HANDED = ("corpus", "progress", *FLAGS)
"""Parameters of an experiment that are no settings: the data settings, the progress and the flags fill them in."""


@dataclass(frozen=True)
class NoConfig:
    """Nothing: an experiment brings its settings."""


def experiment(call: Call[Any]) -> int:
    """Run a whole experiment, on the embedded default or on models and data of your own.

    expunge experiment NAME --help lists the settings of one.
    """
    table(("experiment", "what it is"), _listed())
    return 0


def _listed() -> list[tuple[str, str]]:
    return [(name, summary("experiments", name)) for name in catalogue.names("experiments")]


def _chosen(words: Sequence[str]) -> tuple[Verb[Any], Sequence[str]]:
    """The experiment that the first word names, as a verb of its own."""
    if not words:
        return VERB, words
    if words[0] in ("-h", "--help"):
        listing = "\n".join(f"  {line}" for line in columns(("experiment", "what it is"), _listed()))
        return replace(VERB, note=listing), words
    if words[0].startswith("-") or "=" in words[0]:
        raise ExpungeError(
            f"'{words[0]}' came where the name of an experiment goes: expunge experiment NAME key=value. Known: "
            f"{', '.join(catalogue.names('experiments'))}."
        )
    return verb_of(words[0]), words[1:]


def verb_of(name: str) -> Verb[Any]:
    """The verb of one experiment; its settings are the keyword parameters of its function.

    Args:
        name: of an experiment, or `package.module:function`.
    """
    function = catalogue.resolve("experiments", name)
    taken, own = catalogue.hyperparameters(function), _settings(function, name)

    def run(call: Call[Any]) -> int:
        _show(_made(function, {setting.name for setting in own}, call))
        return 0

    run.__doc__ = description(function)
    return Verb(
        name=f"experiment {name}",
        config=CorpusConfig if "corpus" in taken else NoConfig,
        run=run,
        own_settings=own,
        extra_settings=source_settings if "corpus" in taken else lambda values: (),
        flags=tuple(flag for flag in FLAGS if flag in taken),
    )


def _settings(function: Callable[..., Any], name: str) -> tuple[Setting, ...]:
    """The parameters of an experiment, its folder under the name that all verbs have for it."""
    owner = f"the experiment {name}"
    own = [
        replace(setting, doc=setting.doc.replace("None: ", "null: "))
        for setting in parameters(function, owner=owner)
        if setting.name not in HANDED
    ]
    folder = inspect.signature(function).parameters.get("folder")
    if folder is not None:
        default = REQUIRED if folder.default is folder.empty else folder.default
        doc = argument_docs(function).get("folder", "")
        own.insert(0, Setting(name="output", type=str, default=default, doc=doc, group=f"Settings of {owner}"))
    return tuple(own)


def _made(function: Callable[..., Any], own: set[str], call: Call[Any]) -> Any:
    """What an experiment returns, called with what was given; its own defaults hold for the rest."""
    resolved, taken = call.resolved, catalogue.hyperparameters(function)
    given = {name: value for name, value in resolved.extra.items() if name in own}
    where = [given.pop("output")] if "output" in given else []
    given |= {flag: flag in call.flags for flag in FLAGS if flag in taken}
    of_data = [setting for setting in resolved.known if setting.name not in own]
    if any(resolved.origins[setting.name] != setting.default_origin for setting in of_data):
        given["corpus"] = corpus_of(call.config, {k: v for k, v in resolved.extra.items() if k not in own})
    with shown() as report:
        return function(*where, **given, **({"progress": report} if "progress" in taken else {}))


def _show(made: Any) -> None:
    """Print a result; one that is no `Result` of ours as text."""
    if not isinstance(made, Result):
        say("" if made is None else str(made))
        return
    for one in made.tables():
        if not isinstance(one, Table):
            draw(one)
            continue
        if one.title:
            heading(one.title)
        table(one.header, one.rows, numeric=one.numeric)
    say(f"\n{made.text()}")


VERB = Verb(name="experiment", config=NoConfig, run=experiment, positional="NAME", choose=_chosen)
