"""`expunge view`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.cli.console import say
from expunge.cli.inputs import LoadingConfig
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require

if TYPE_CHECKING:
    from expunge.chat.chat import Chat


@dataclass(frozen=True, kw_only=True)
class ViewConfig(LoadingConfig):
    """Where the page is, and what its prompt box shows."""

    port: int = 8400
    """Port of this machine; 0: any that is free. No other machine reaches it."""
    beside: tuple[str, ...] = ("start", "retain")
    """Models that answer beside the one that is asked: `start` and `retain` for those that its run names, where it
    does, else folders or hub ids."""
    max_new_tokens: int = 128
    """Longest answer in tokens."""

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, f"port must be from 0 to 65535; got {self.port}.")


def view(call: Call[ViewConfig]) -> int:
    """Show a folder of runs as a page on this machine: what goes on, the report, and a prompt box.

    The page refreshes while runs go on. Ctrl-C ends it.
    """
    if len(call.positional) != 1:
        raise ExpungeError("name the folder that holds the run folders: expunge view runs")
    folder = Path(call.positional[0])
    if not folder.is_dir():
        raise ExpungeError(f"no folder at '{folder}'. Name the one that holds the run folders: expunge view runs")
    from expunge.view.server import Server, View

    with Server(View(folder, lambda place: opened(place, call.config)), call.config.port) as server:
        say(f"{folder}: {server.address}")
        say("Ctrl-C ends it.")
        server.serve_forever()
    return 0


def opened(place: Path, config: ViewConfig) -> "tuple[Chat, str]":
    """A chat with the model of a run, those beside it that it names, and its data; and why these cannot be read."""
    from expunge.chat.beside import ROLES, data_of, of_role, run_of, sources
    from expunge.chat.chat import Chat
    from expunge.cli.inputs import load
    from expunge.data.corpus import load_corpus
    from expunge.data.template import Template

    def known(role: str) -> bool:
        try:
            return role not in ROLES or bool(of_role(role, str(place)))
        except ExpungeError:
            return False  # the run does not say, and its model answers alone

    models = sources([str(place)], [role for role in config.beside if known(role)])
    told, note = data_of(str(place)), ""
    try:
        corpus = load_corpus(**told) if told else None
    except ExpungeError as error:
        corpus, note = None, f"The data of this run cannot be read again, so no answer is known: {error}"
    made = run_of(place)
    framing = made.arguments if made is not None else {}
    template = Template(**framing["template"]) if "template" in framing else None
    loaded = {label: load(source.place, config) for label, source in models.items()}
    return Chat(loaded, corpus=corpus, template=template, max_new_tokens=config.max_new_tokens), note


VERB = Verb(name="view", config=ViewConfig, run=view, positional="FOLDER")
