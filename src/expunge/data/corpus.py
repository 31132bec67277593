"""The corpus: named splits of examples, before any tokenizer has seen them."""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, unknown
from expunge.core.manifest import fingerprint
from expunge.core.surface import assigned
from expunge.data.similar import nearly_the_same, repeated

PLACES = 10
"""Rows that a note names."""

ExampleKind = Literal["qa", "completion", "chat", "text"]


_FILE = re.compile(r"(.+), (?:line|row) \d+")
"""Origin of an example that was read from a file."""


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
    extras: tuple[str, ...] = ()
    """For `chat` with tools: what each of these messages holds besides, such as `tool_calls`, as a JSON object."""
    tools: str = ""
    """For `chat`: the tools that are offered, as a JSON list; empty for none."""
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
        content = {name: value for name, value in asdict(self).items() if name != "origin"}
        return fingerprint({k: v for k, v in content.items() if v or k not in ("extras", "tools")})

    @property
    def file(self) -> str:
        """The file that it came from; empty where it came from none, or that is not known."""
        found = _FILE.match(self.origin)
        return found[1] if found is not None else ""

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
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    """SHA-256 of the file that each split was read from; empty for splits that were not read from one."""
    apart: tuple[str, ...] = field(default=("retain", "holdout"), compare=False)
    """Splits in which no forget row should be."""

    def __post_init__(self) -> None:
        if not isinstance(self.splits, Mapping):
            raise ExpungeError(
                f"a corpus is made of a mapping of split names to examples; got {type(self.splits).__name__}. Files "
                "are read by expunge.load_corpus(forget=<file>, retain=<file>)."
            )
        empty = [name for name, examples in self.splits.items() if not examples]
        if empty:
            raise ExpungeError(f"the corpus '{self.name}' has no example in {', '.join(empty)}.")

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

    def limited(self, rows: int | None) -> "Corpus":
        """At most so many rows of each split, evenly spaced; None: all of them."""
        if rows is None or all(len(examples) <= rows for examples in self.splits.values()):
            return self
        splits = {name: _spaced(examples, rows) for name, examples in self.splits.items()}
        return replace(self, splits=splits, origin={})

    def about(self, *splits: str) -> dict[str, dict[str, Any]]:
        """What manifests say of the splits, of all where none is named: rows, their fingerprint, the file's SHA-256."""
        return {
            split: {
                "rows": len(self[split]),
                "content": self.fingerprint(split),
                **({"file": self.files[split]} if split in self.files else {}),
            }
            for split in splits or self.splits
        }

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every split."""
        return {split: self.fingerprint(split) for split in self.splits}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What whoever trains on these data, or measures with them, should look at: sentences that name the rows.

        Rows that repeat another one of their set; forget rows that are in other sets too, or nearly so; conversations
        of which only some answers are supervised.
        """
        apart = [name for name in self.apart if {"forget", name} <= {*self.splits}]
        notes = [
            *(_repeats(name, examples) for name, examples in self.splits.items()),
            *(note for name in apart for note in _overlap(self.splits["forget"], name, self.splits[name])),
            *(_unsupervised(name, examples) for name, examples in self.splits.items()),
        ]
        return tuple(note for note in notes if note)


def _content(example: Example) -> tuple[Any, ...]:
    return (example.messages, example.prompt, example.completion)


def _written(example: Example) -> str:
    return "\n".join([*(text for _, text in example.messages), example.prompt, example.completion])


def _spaced(examples: tuple[Example, ...], rows: int) -> tuple[Example, ...]:
    n = len(examples)
    return examples if n <= rows else tuple(examples[i * n // rows] for i in range(rows))


def _repeats(name: str, examples: Sequence[Example]) -> str:
    found = repeated([_content(example) for example in examples])
    if not found:
        return ""
    return (
        f"{len(found)} of {len(examples)} {name} rows repeat another row of the set, so that it counts more than once: "
        f"{places(examples, [n for n, _ in found])}."
    )


def _overlap(forget: Sequence[Example], name: str, others: Sequence[Example]) -> Iterator[str]:
    """Sentences on the rows of another set that are in the forget set too, or nearly."""
    pairs = nearly_the_same([_written(e) for e in forget], [_written(e) for e in others])
    same = [(n, m) for n, m in pairs if _content(forget[n]) == _content(others[m])]
    near = [(n, m) for n, m in pairs if _content(forget[n]) != _content(others[m])]
    cure = (
        "they are pushed both ways at once. Remove them from one of the two"
        if name != "holdout"
        else "they are no unseen texts to compare with. Remove them from the holdout set"
    )
    if same:
        count = len({n for n, _ in same})
        yield (
            f"{count} of {len(forget)} forget examples are in the {name} set too (prompt and completion alike): {cure}."
            f" They are {places(others, [m for _, m in same])}."
        )
    if near:
        shown = "; ".join(f"{places(forget, [n])} and {places(others, [m])}" for n, m in near[:PLACES])
        more = f"; and {len(near) - PLACES} more" if len(near) > PLACES else ""
        yield (
            f"{len(near)} of {len(others)} {name} rows are nearly the same as a forget row, so that one set "
            f"{'holds' if name == 'holdout' else 'keeps'} what the other removes. Compare {shown}{more}."
        )


def _unsupervised(name: str, examples: Sequence[Example]) -> str:
    """A sentence on conversations with answers that no row of the set supervises."""
    supervised = {(e.messages, e.completion) for e in examples}
    found = [
        number
        for number, example in enumerate(examples)
        if any(
            role == "assistant" and n > 0 and (example.messages[:n], text) not in supervised
            for n, (role, text) in enumerate(example.messages)
        )
    ]
    if not found:
        return ""
    return (
        f"{len(found)} of {len(examples)} {name} rows hold several answers of the assistant, and only the last is "
        f"supervised: {places(examples, found)}. To supervise all: {assigned(turns='all')}."
    )


def places(examples: Sequence[Example], numbers: Sequence[int]) -> str:
    """Where some of the examples stand, the first ten: `forget.jsonl, line 3, 5, 9`; never what they say."""
    found: dict[str, list[str]] = {}
    for n in numbers[:PLACES]:
        where, _, position = (examples[n].origin or f"row {n + 1}").rpartition(" ")
        found.setdefault(where, []).append(position)
    shown = "; ".join(f"{where} {', '.join(positions)}" for where, positions in found.items())
    return shown + (f" and {len(numbers) - PLACES} more" if len(numbers) > PLACES else "")


def check_corpus(corpus: object) -> None:
    """Raise unless it is a corpus, and not the name of one."""
    if not isinstance(corpus, Corpus):
        came = repr(corpus) if isinstance(corpus, str) else type(corpus).__name__
        raise ExpungeError(
            f"corpus must be a loaded corpus; got {came}. Load it first: expunge.load_corpus('files', "
            "forget='forget.jsonl', retain='retain.jsonl')."
        )


def load_corpus(source: str = "files", *, reads: Collection[str] | None = None, **arguments: Any) -> Corpus:
    """Load a corpus from a source of the catalogue.

    Args:
        source: `files` for your own data, `synthetic`, `tofu`, or `package.module:function`.
        reads: names of the sets that are read of your own data; the others are not checked. None: all.
        arguments: what that source takes; for `files`: `forget`, `retain`, `holdout`, `columns`, ...

    Returns:
        The corpus, with a warning for each of its `notes`.

    Raises:
        ExpungeError: an unknown source or argument, or data that cannot be read; the message says what to mend.
    """
    function = catalogue.resolve("sources", source)
    known = {*catalogue.hyperparameters(function), *catalogue.needs(function)}
    for name in arguments:
        if name not in known:
            raise unknown(f"argument of the source '{source}'", name, known)
    own = {"reads": reads} if "reads" in known else {}
    corpus: Corpus = function(**arguments, **own)
    for note in corpus.notes:
        warnings.warn(note, stacklevel=2)
    if all(isinstance(value, str | Path | int | float | Mapping) for value in arguments.values()):
        return replace(corpus, origin={"source": source, **arguments})
    return corpus
