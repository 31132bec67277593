"""`expunge chat`."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING

from expunge.cli.console import complain, say, table
from expunge.cli.inputs import LoadingConfig, corpus_of, data_given, load, source_settings, template_of
from expunge.cli.verb import USER_ERROR, Call, Verb
from expunge.cli.verbs._chat_view import on_terminal, show_lines, summary, watched
from expunge.core.checks import ExpungeError, require_at_least, require_positive, unknown
from expunge.core.progress import shown
from expunge.data.data_config import DataConfig

if TYPE_CHECKING:
    from expunge.chat.beside import Source
    from expunge.chat.chat import Chat, Exchange, Shown
    from expunge.data.corpus import Corpus

SAMPLES = 8
PROMPT = "> "
HELP = """\
Type a prompt; every model answers it. Commands ask the last prompt again:
  /sample [N]      N sampled answers of each model (8)
  /prefill TEXT    the answer begins with TEXT, and the models go on from there
  /attack [FORM]   in other words, languages and forms, worst case first; or in one form, in full
  /help            this text
  /quit            end, as Ctrl-D does
Ctrl-C stops an answer. A prompt that begins with / is typed with //.
p is the probability of the known answer: the geometric mean over its tokens. It is shown where the prompt is a question
of the data. multiple_choice asks for a letter, for which chance alone gives 0.25. … ends an answer that was cut."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig(LoadingConfig, DataConfig):
    """Who answers, and how long."""

    beside: tuple[str, ...] = ()
    """Models beside it: `start` and `retain` for those that the run names, else folders or hub ids, as
    `start,runs/retain`."""
    prompt: str | None = None
    """Ask this alone, and end; null: prompts are typed, or come one a line through a pipe."""
    max_new_tokens: int = 128
    """Longest answer in tokens."""
    temperature: float = 0.8
    """Of `/sample`."""
    seed: int = 0
    """Of what `/sample` and `/attack` draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("max_new_tokens", self.max_new_tokens, 1)
        require_positive("temperature", self.temperature)


def chat(call: Call[ChatConfig]) -> int:
    """Talk to models side by side, and see how probable known answers are to each.

    Without a terminal, each line of the input is a prompt or a command, and the output is plain text.
    """
    if not call.positional:
        raise ExpungeError("name a model: expunge chat runs/npo beside=start,retain")
    config = call.config
    from expunge.chat.beside import sources

    models = sources(call.positional, config.beside)
    corpus = _corpus(call)
    conversation = Conversation(_loaded(models, corpus, config), config)
    if config.prompt is not None:
        conversation.ask(config.prompt)
        return 0
    if not on_terminal():
        return _through_a_pipe(conversation)
    _introduce(models, corpus)
    _at_a_terminal(conversation)
    return 0


def _through_a_pipe(conversation: "Conversation") -> int:
    """Answer each line; the exit code, which says whether all could be answered."""
    code = 0
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is not UTF-8 is one bad character of one prompt
    for line in sys.stdin:
        try:
            if not conversation.take(line):
                break
        except ExpungeError as error:
            complain(f"error: {error}")
            code = USER_ERROR
    return code


def _at_a_terminal(conversation: "Conversation") -> None:
    for line in _typed():
        try:
            if not conversation.take(line):
                break
        except ExpungeError as error:
            complain(f"error: {error}")
        except KeyboardInterrupt:
            say("stopped\n")


def _corpus(call: Call[ChatConfig]) -> "Corpus | None":
    """The data that were named, else those that the run was made on, where they are still there."""
    if data_given(call.config, call.resolved.extra):
        return corpus_of(call.config, call.resolved.extra)
    from expunge.chat.beside import data_of
    from expunge.data.corpus import load_corpus

    told = data_of(call.positional[0])
    if not told:
        return None
    try:
        return load_corpus(**told)
    except ExpungeError as error:
        complain(f"note: the data of {call.positional[0]} cannot be read again, so no answer is known: {error}")
        return None


def _loaded(models: "Mapping[str, Source]", corpus: "Corpus | None", config: ChatConfig) -> "Chat":
    from expunge.chat.chat import Chat
    from expunge.models.fingerprint import base_fingerprint
    from expunge.models.load import check_loading

    for source in models.values():  # all of them before the first, which may take minutes, is loaded
        check_loading(source.place, device=config.device, bits=config.bits)
    found = {}
    with shown() as report:
        for done, (label, source) in enumerate(models.items()):
            report("loading models", done, len(models), label)
            found[label] = load(source.place, config)
            model = found[label][0]
            if source.weights is not None and source.differs(base_fingerprint(model), str(model.dtype)):
                complain(
                    f"warning: {source.place} is not the {label} model that {next(iter(models.values())).place} names: "
                    "its weights are others."
                )
        report("loading models", len(models), len(models), "")
    return Chat(
        found,
        corpus=corpus,
        template=template_of(config),
        max_length=config.max_length,
        max_new_tokens=config.max_new_tokens,
    )


class Conversation:
    """Prompts and commands as they come, and what was asked last."""

    def __init__(self, chat: "Chat", config: ChatConfig) -> None:
        self.chat, self.config = chat, config
        self.last = ""
        self.draws = 0
        self.commands: dict[str, Callable[[str], None]] = {
            "/sample": self.sample,
            "/prefill": self.prefill,
            "/attack": self.attack,
            "/help": lambda words: say(HELP),
        }

    def take(self, line: str) -> bool:
        """Answer a line; False where it ends the conversation.

        Raises:
            ExpungeError: an unknown command, or one that the models cannot answer.
        """
        line = line.strip()
        if not line:
            return True
        command, _, words = line.partition(" ")
        if command == "/quit":
            return False
        if line.startswith("//"):
            self.ask(line[1:])
        elif command in self.commands:
            self.commands[command](words.strip())
        elif command.startswith("/"):
            known = [*self.commands, "/quit"]
            raise unknown("command", command, known, hint="A prompt that begins with / is typed with //.")
        else:
            self.ask(line)
        say()
        return True

    def ask(self, prompt: str) -> None:
        """A new prompt."""
        self.last = prompt
        self._show(lambda show: self.chat.ask(prompt, shown=show))

    def sample(self, words: str) -> None:
        """`/sample 8`."""
        if words and not words.isdecimal():
            raise ExpungeError(f"/sample takes a number of answers, as /sample {SAMPLES}; got {words!r}.")
        prompt, seed, temperature = self._prompt(), self.config.seed + self.draws, self.config.temperature
        self.draws += 1  # the same command again draws other answers
        samples = int(words or SAMPLES)
        self._show(lambda show: self.chat.sample(prompt, samples, temperature=temperature, seed=seed, shown=show))

    def prefill(self, words: str) -> None:
        """`/prefill It was`."""
        if not words:
            raise ExpungeError("/prefill takes the text that the answer begins with, as /prefill It was")
        prompt = self._prompt()
        self._show(lambda show: self.chat.ask(prompt, prefill=words, shown=show))

    def attack(self, words: str) -> None:
        """`/attack`, `/attack french`."""
        prompt, seed = self._prompt(), self.config.seed
        found = self._show(lambda show: self.chat.attack(prompt, words or None, seed=seed, shown=show), brief=not words)
        if line := summary(found):
            say(line)

    def _prompt(self) -> str:
        if not self.last:
            raise ExpungeError("nothing was asked yet: type a prompt first.")
        return self.last

    def _show(self, put: "Callable[[Shown | None], Exchange]", *, brief: bool = False) -> "Exchange":
        with watched(brief=brief) as show:
            found = put(show)
        if show is None:
            show_lines(found, brief=brief)
        return found


def _introduce(models: "Mapping[str, Source]", corpus: "Corpus | None") -> None:
    table(["model", "from"], [[label, source.place] for label, source in models.items()])
    if corpus is None:
        say("No data: name some (forget=... retain=...) to see how probable known answers are.")
    else:
        sizes = ", ".join(f"{split} {len(corpus[split])}" for split in corpus)
        say(f"Known questions: {sizes}.")
    say("Type a prompt; /help lists the commands, Ctrl-D ends.\n")


def _typed() -> Iterator[str]:
    """Lines that are typed, until Ctrl-D; Ctrl-C gives up a line or stops an answer."""
    try:
        import readline  # noqa: F401  lines can be edited, and earlier ones come back
    except ImportError:
        pass  # not on every system
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            say()
            return
        except KeyboardInterrupt:
            say("\n/quit or Ctrl-D ends.")


def _hint(name: str) -> str:
    return "Name the model without a key: expunge chat runs/npo" if name == "model" else ""


VERB = Verb(
    name="chat",
    config=ChatConfig,
    run=chat,
    extra_settings=source_settings,
    unknown_hint=_hint,
    positional="MODEL...",
    note="MODEL is a run folder, another model folder or a hub id; several are shown side by side. Without data "
    "settings the known questions are those of the data that the run was made on.\n\nExample: expunge chat runs/npo "
    "beside=start,retain forget=forget.jsonl",
)
