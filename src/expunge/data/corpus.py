"""The corpus: named splits of examples, before any tokenizer has seen them."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, unknown
from expunge.core.manifest import fingerprint

ExampleKind = Literal["qa", "completion", "chat", "text"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One thing to forget, keep or hold out, and the variants of it that evaluation asks for."""

    kind: ExampleKind
    """`qa`: a question, framed by the prompt template. `completion`: prompt and completion as they are. `chat`:
    messages, framed by the tokenizer's chat template. `text`: plain text without a prompt."""
    completion: str
    """What is supervised: the answer, the continuation, the last assistant message, or the whole text."""
    prompt: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    """For `chat`: (role, content) of everything before the completion."""
    paraphrased_prompt: str | None = None
    paraphrased: str | None = None
    """The answer in other words."""
    perturbed: tuple[str, ...] = ()
    """Wrong answers of the same form."""
    alternates: tuple[str, ...] = ()
    """Answers to be preferred over the true one, such as refusals."""
    origin: str = ""
    """Where it came from, for messages: `forget.jsonl, line 3`. Not part of its content."""

    @cached_property
    def key(self) -> str:
        """Fingerprint of the content."""
        return fingerprint({k: v for k, v in asdict(self).items() if k != "origin"})

    @property
    def question(self) -> str:
        """What is asked, for a reader: the prompt, the last message of a chat, nothing for plain text."""
        return self.messages[-1][1] if self.messages else self.prompt

    def asking(self, completion: str, *, prompt: str | None = None) -> "Example":
        """This example with another completion, and another prompt where one is given."""
        if prompt is not None and self.messages:
            *before, (role, _) = self.messages
            return replace(self, completion=completion, messages=(*before, (role, prompt)))
        return replace(self, completion=completion, prompt=self.prompt if prompt is None else prompt)


@dataclass(frozen=True)
class Corpus:
    """Named splits of examples: `forget`, `retain`, `holdout`, and whatever a benchmark adds."""

    splits: Mapping[str, tuple[Example, ...]]
    name: str = "corpus"
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Arguments of `load_corpus` that give this corpus again; empty where there are none, as for rows in memory."""

    def __post_init__(self) -> None:
        empty = [name for name, examples in self.splits.items() if not examples]
        if empty:
            raise ExpungeError(f"the corpus '{self.name}' has no example in {', '.join(empty)}.")
        shared = self.shared("forget", "retain")
        if shared:
            warnings.warn(
                f"{shared} of {len(self.splits['forget'])} forget examples are in the retain set too (prompt and "
                "completion alike): they are pushed both ways at once. Remove them from one of the two.",
                stacklevel=3,  # past the generated __init__
            )

    def __getitem__(self, split: str) -> tuple[Example, ...]:
        """The examples of a split; the error names the splits that are there."""
        if split not in self.splits:
            raise ExpungeError(f"the corpus '{self.name}' has no split '{split}'; it holds {', '.join(self.splits)}.")
        return self.splits[split]

    def __contains__(self, split: object) -> bool:
        return split in self.splits

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def fingerprint(self, split: str) -> str:
        """Fingerprint of a split's content, independent of where it was read from."""
        return fingerprint([example.key for example in self[split]])

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every split."""
        return {split: self.fingerprint(split) for split in self.splits}

    def shared(self, one: str, other: str) -> int:
        """How many examples of `one` stand in `other` too, compared by what is asked and supervised."""

        def content(example: Example) -> tuple[Any, ...]:
            return (example.messages, example.prompt, example.completion)

        if one not in self.splits or other not in self.splits:
            return 0
        known = {content(e) for e in self.splits[other]}
        return sum(content(e) in known for e in self.splits[one])


def check_corpus(corpus: object) -> None:
    """Raise unless it is a corpus, and not the name of one."""
    if not isinstance(corpus, Corpus):
        came = repr(corpus) if isinstance(corpus, str) else type(corpus).__name__
        raise ExpungeError(
            f"corpus must be a loaded corpus; got {came}. Load it first: expunge.load_corpus('files', "
            "forget='forget.jsonl', retain='retain.jsonl')."
        )


def load_corpus(source: str = "files", **arguments: Any) -> Corpus:
    """Load a corpus from a source of the catalogue.

    Args:
        source: `files` for your own data, `synthetic`, `tofu`, or `package.module:function`.
        arguments: what that source takes; for `files`: `forget`, `retain`, `holdout`, `columns`.

    Returns:
        The corpus, with a warning where forget and retain share examples.

    Raises:
        ExpungeError: an unknown source or argument, or data that cannot be read; the message says what to mend.
    """
    function = catalogue.resolve("sources", source)
    known = {*catalogue.hyperparameters(function), *catalogue.needs(function)}
    for name in arguments:
        if name not in known:
            raise unknown(f"argument of the source '{source}'", name, known)
    corpus: Corpus = function(**arguments)
    if all(isinstance(value, str | Path | int | float | Mapping) for value in arguments.values()):
        object.__setattr__(corpus, "origin", {"source": source, **arguments})  # a copy would repeat the warnings
    return corpus
