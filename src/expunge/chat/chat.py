"""One prompt to several models: their answers as they are written, and how probable the known answer is to each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.attacks.prompts import FORMS
from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError, require_at_least, require_positive, require_type, unknown
from expunge.data.corpus import Corpus, Example, check_corpus
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.scoring import teacher_forced
from expunge.models.anatomy import evaluating
from expunge.models.finite import check_finite
from expunge.models.generate import Pick, end_tokens, most_probable, sampler, stream
from expunge.models.load import check_tokenizer_fits

AS_ASKED = "as asked"
NEW_TOKENS = 128
TEMPERATURE = 0.8
_STAND_IN = "The"
"""Written where an answer would stand, so that a prompt without a known answer ends where prompts with one do."""


@dataclass(frozen=True)
class Answer:
    """What one model says."""

    text: str = ""
    probability: float | None = None
    """Geometric mean probability of the known answer's tokens, the end token included; None where none is known."""
    ended: bool = False
    """Has the model come to its end? Not while it writes, and not where it was cut."""


@dataclass(frozen=True)
class Exchange:
    """One prompt and what each model says to it, once or in several ways."""

    prompt: str
    ways: tuple[str, ...]
    """What each answer is: empty for the one plain answer, `sample 2`, or the form in which the prompt was put."""
    prompts: tuple[str, ...]
    """The prompt of each way."""
    answers: Mapping[str, tuple[Answer, ...]]
    """By model, its answer in each way."""
    known: str | None = None
    """The known answer."""
    split: str | None = None
    """The set that holds it."""
    prefill: str = ""
    """How each answer was made to begin."""


Shown = Callable[[Exchange], None]
"""Called with the answers so far each time that every model has written a token more."""


@dataclass(frozen=True)
class _Way:
    name: str
    example: Example
    known: bool


@dataclass(frozen=True)
class _Turn:
    """What one model was asked, and what it has said so far."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    begun: Sequence[Encoded]
    """Each prompt, with the beginning of an answer as its completion, if any."""
    probabilities: Sequence[float | None]
    ends: Set[int]
    said: Sequence[list[int]]

    def writing(self, most: int, pick: Pick) -> Iterator[bool]:
        """Write a token of each answer at a time."""
        prompts = [row.ids for row in self.begun]
        for step in stream(self.model, prompts, max_new_tokens=most, eos_ids=self.ends, pick=pick):
            for number, token in step.items():
                self.said[number].append(token)
            yield True

    def answers(self) -> tuple[Answer, ...]:
        found = []
        for row, tokens, probability in zip(self.begun, self.said, self.probabilities, strict=True):
            ended = bool(tokens) and tokens[-1] in self.ends
            written = [*row.ids[row.start :], *(tokens[:-1] if ended else tokens)]
            text = str(self.tokenizer.decode(written, skip_special_tokens=True)).strip()
            # The last character may still lack bytes, which the next token brings.
            found.append(Answer(text if ended else text.rstrip("\ufffd"), probability, ended))
        return tuple(found)


@dataclass(frozen=True)
class _Speaker:
    """One model, and how a prompt is put to it."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    template: Template | None
    max_length: int

    def turn(self, ways: Sequence[_Way], prefill: str) -> _Turn:
        """Ask the model; it has said nothing yet."""
        rows = self._rows([way.example for way in ways])
        return _Turn(
            self.model,
            self.tokenizer,
            begun=self._begun(rows, ways, prefill),
            probabilities=self.probabilities(ways),
            ends=end_tokens(self.model, self.tokenizer, rows),
            said=[[] for _ in ways],
        )

    def probabilities(self, ways: Sequence[_Way]) -> list[float | None]:
        """Of the known answer, in each way."""
        known = [way.example for way in ways if way.known]
        with evaluating(self.model):
            scores = iter(teacher_forced(self.model, self._rows(known)) if known else [])
        return [math.exp(float(next(scores).logprobs.mean())) if way.known else None for way in ways]

    def _rows(self, examples: Sequence[Example]) -> list[Encoded]:
        return encode(examples, self.tokenizer, template=self.template, max_length=self.max_length)

    def _begun(self, rows: Sequence[Encoded], ways: Sequence[_Way], prefill: str) -> list[Encoded]:
        opening = prefill.rstrip()  # tokenizers write a space as the beginning of the next word
        if not opening:
            return [replace(row, ids=row.prompt_ids) for row in rows]
        opened = self._rows([way.example.asking(opening) for way in ways])
        return [replace(row, ids=row.ids[: len(row.ids) - row.ended]) for row in opened]


class Chat:
    """Asks several models the same, each in its own framing and tokens, one prompt at a time.

    The models write in turns, a token each, so that none waits for another. Where a prompt is a question of the corpus
    it is asked as in an evaluation, and each answer comes with the probability of the known answer.

    Args:
        models: by what they are called, a loaded model and its tokenizer; the first is the one that is looked into.
        corpus: where known questions and answers come from, and the examples of some forms; None: nothing is known.
        template: how questions are framed; None: the tokenizer's chat template where it has one, else plain text.
        max_length: longest row in tokens, of a prompt with its known answer.
        max_new_tokens: longest answer.

    Raises:
        ExpungeError: no model, a broken one, or a tokenizer that does not fit its model.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]],
        *,
        corpus: Corpus | None = None,
        template: Template | None = None,
        max_length: int = 512,
        max_new_tokens: int = NEW_TOKENS,
    ) -> None:
        require_at_least("max_new_tokens", max_new_tokens, 1)
        if not models:
            raise ExpungeError("name a model to talk to.")
        if corpus is not None:
            check_corpus(corpus)
        for name, (model, tokenizer) in models.items():
            check_tokenizer_fits(model, tokenizer)
            check_finite(model, f"model {name}")
        self.max_new_tokens = max_new_tokens
        self._splits = corpus.splits if corpus is not None else {}
        self._speakers = {name: _Speaker(*of, template, max_length) for name, of in models.items()}

    def ask(self, prompt: str, *, prefill: str = "", shown: Shown | None = None) -> Exchange:
        """The most probable answer of each model.

        Args:
            prompt: what is asked.
            prefill: how the answer begins; the models go on from there.
            shown: called with the answers so far, for a reader who watches.

        Raises:
            ExpungeError: an empty prompt, or one that a model has no place for or cannot be framed for.
        """
        return self._put(prompt, [self._way(prompt)], prefill=prefill, shown=shown)

    def sample(
        self,
        prompt: str,
        samples: int = 8,
        *,
        temperature: float = TEMPERATURE,
        seed: int = 0,
        shown: Shown | None = None,
    ) -> Exchange:
        """Several answers of each model, drawn from its probabilities.

        Args:
            prompt: what is asked.
            samples: how many answers.
            temperature: of the softmax.
            seed: of the draws.
            shown: called with the answers so far.

        Raises:
            ExpungeError: as `ask`; fewer than one sample, or a temperature not above 0.
        """
        require_at_least("samples", samples, 1)
        require_positive("temperature", temperature)
        way = self._way(prompt)
        ways = [replace(way, name=f"sample {number}") for number in range(1, samples + 1)]
        picks = {
            name: sampler(temperature=temperature, seed=seed, device=next(of.model.parameters()).device)
            for name, of in self._speakers.items()
        }
        return self._put(prompt, ways, picks=picks, shown=shown)

    def attack(self, prompt: str, form: str | None = None, *, seed: int = 0, shown: Shown | None = None) -> Exchange:
        """The prompt as it is, then in every form that can be made of it, worst case first.

        Worst is where the first model gives the known answer the highest probability. Without a known answer the forms
        keep their order.

        Args:
            prompt: what is asked.
            form: one form alone; None: all that can be made.
            seed: of the examples of `few_shot` and the order of choices.
            shown: called with the answers so far.

        Raises:
            ExpungeError: as `ask`; an unknown form, or one that cannot be made of this prompt.
        """
        if form is not None and form not in FORMS:
            raise unknown("form of prompts", form, FORMS)
        ways = self._forms(prompt, form, seed)
        if not ways:
            raise ExpungeError(
                f"{'no form' if form is None else f'the form {form}'} can be made of this prompt: forms are made of "
                "questions, and some of them of a known answer or of other rows of the corpus."
            )
        if ways[0].known:
            first = next(iter(self._speakers.values()))
            ranked = zip(ways, first.probabilities(ways), strict=True)
            ways = [way for way, _ in sorted(ranked, key=lambda pair: -(pair[1] or 0))]
        return self._put(prompt, [replace(self._way(prompt), name=AS_ASKED), *ways], shown=shown)

    def known(self, prompt: str) -> tuple[str, int] | None:
        """The set and row that a prompt is the question of; case and spaces do not count. None where it is of none."""
        return self._questions.get(_normal(prompt))

    @cached_property
    def _questions(self) -> dict[str, tuple[str, int]]:
        found: dict[str, tuple[str, int]] = {}
        for split, examples in self._splits.items():
            for number, example in enumerate(examples):
                if example.kind != "text":
                    found.setdefault(_normal(example.question), (split, number))
        return found

    def _way(self, prompt: str) -> _Way:
        require_type("prompt", prompt, str, "a text")
        if not prompt.strip():
            raise ExpungeError("the prompt is empty. Ask something.")
        where = self.known(prompt)
        if where is None:
            return _Way("", Example(kind="qa", prompt=prompt, completion=_STAND_IN), False)
        return _Way("", self._splits[where[0]][where[1]], True)

    def _forms(self, prompt: str, form: str | None, seed: int) -> list[_Way]:
        way, where = self._way(prompt), self.known(prompt)
        # An example of `few_shot` must not be the question itself.
        retain = tuple(e for e in self._splits.get("retain", ()) if _normal(e.question) != _normal(prompt))
        facts = self._splits[where[0]] if where is not None else (replace(way.example, completion=""),)
        corpus = Corpus({"forget": facts, **({"retain": retain} if retain else {})}, "chat")
        row = where[1] if where is not None else 0
        made = {name: FORMS[name](corpus, seed).get(row) for name in ([form] if form is not None else FORMS)}
        return [
            _Way(name, example if way.known else replace(example, completion=_STAND_IN), way.known)
            for name, example in made.items()
            if example is not None
        ]

    def _put(
        self,
        prompt: str,
        ways: Sequence[_Way],
        *,
        picks: Mapping[str, Pick] | None = None,
        prefill: str = "",
        shown: Shown | None = None,
    ) -> Exchange:
        """Put the ways to each model; they write in turns."""
        turns = {name: speaker.turn(ways, prefill) for name, speaker in self._speakers.items()}
        where = self.known(prompt)

        def so_far() -> Exchange:
            return Exchange(
                prompt,
                tuple(way.name for way in ways),
                tuple(way.example.question for way in ways),
                {name: turn.answers() for name, turn in turns.items()},
                known=ways[0].example.completion if ways[0].known else None,
                split=where[0] if where is not None else None,
                prefill=prefill,
            )

        with ExitStack() as held:
            for turn in turns.values():
                held.enter_context(evaluating(turn.model))
            writing = {
                name: turn.writing(self.max_new_tokens, (picks or {}).get(name, most_probable))
                for name, turn in turns.items()
            }
            while writing := {name: steps for name, steps in writing.items() if next(steps, False)}:
                if shown is not None:
                    shown(so_far())
        return so_far()


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
