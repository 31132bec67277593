"""Sample answers of several models to the same questions, with the words that are right made visible."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from expunge.report.compared_models import Model

_WORD = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_FUNCTION_WORDS = frozenset(
    "a an and are as at be been but by did do does for from had has have he her hers him his i in into is it its me my "
    "no not of on or our out she so than that the their theirs them they this those to up was we were what when where "
    "which who whom whose why will with would yes you your".split()
)
_ORDER = ("forget", "retain")


@dataclass(frozen=True)
class Piece:
    """A run of text, all of it marked or none."""

    text: str
    marked: bool


@dataclass(frozen=True)
class Answer:
    """What one model said."""

    name: str
    role: str
    pieces: tuple[Piece, ...] | None
    """None where the model was not asked this question; empty where it said nothing."""
    found: int
    """How many of the question's key words it said."""


@dataclass(frozen=True)
class Question:
    """One question with the true answer and what every model said, in the order of the models."""

    split: str
    question: str
    truth: tuple[Piece, ...]
    keys: int
    """How many key words the true answer has: each different word that the question does not give away."""
    answers: tuple[Answer, ...]


def side_by_side(models: Sequence[Model]) -> tuple[Question, ...]:
    """Every question that any model was asked: forget, retain, then other splits, each in order of first appearance.

    Questions are the same when split, question and true answer are; one that was asked twice stands there twice.
    """
    said: list[dict[tuple[str, str, str, int], str]] = []
    for model in models:
        seen: Counter[tuple[str, str, str]] = Counter()
        generations = {}
        for sample in model.evaluation.samples:
            asked = (sample.split, sample.question, sample.answer)
            generations[(*asked, seen[asked])] = sample.generation
            seen[asked] += 1
        said.append(generations)
    asked_of_any = dict.fromkeys(key for generations in said for key in generations)
    splits = sorted(dict.fromkeys(split for split, *_ in asked_of_any), key=_place)
    questions = []
    for key in sorted(asked_of_any, key=lambda key: splits.index(key[0])):
        split, question, answer, _ = key
        keys = key_words(question, answer)
        answers = tuple(
            _answer(model, generations.get(key), keys) for model, generations in zip(models, said, strict=True)
        )
        questions.append(Question(split, question, pieces(answer, keys), len(keys), answers))
    return tuple(questions)


def _place(split: str) -> int:
    return next((i for i, prefix in enumerate(_ORDER) if split.startswith(prefix)), len(_ORDER))


def _answer(model: Model, generation: str | None, keys: frozenset[str]) -> Answer:
    if generation is None:
        return Answer(model.name, model.role, None, 0)
    return Answer(model.name, model.role, pieces(generation.strip(), keys), len(keys & _words(generation)))


def _words(text: str) -> frozenset[str]:
    return frozenset(_plain(word) for word in _WORD.findall(text))


def _plain(word: str) -> str:
    return word.casefold().removesuffix("'s").removesuffix("’s")


def key_words(question: str, answer: str) -> frozenset[str]:
    """The words that make an answer right: those that neither the question holds nor grammar needs, case folded.

    An answer of nothing else, such as "Yes.", keeps all its words. English only; a reading aid and no measure.
    """
    plain = _words(answer)
    return plain - _words(question) - _FUNCTION_WORDS or plain


def pieces(text: str, keys: frozenset[str]) -> tuple[Piece, ...]:
    """The text cut where marking begins and ends; put together again it is the text."""
    cut: list[Piece] = []
    at = 0
    for word in _WORD.finditer(text):
        if _plain(word[0]) in keys:
            cut += [Piece(text[at : word.start()], False), Piece(word[0], True)]
            at = word.end()
    cut.append(Piece(text[at:], False))
    return tuple(piece for piece in cut if piece.text)


def by_split(questions: Sequence[Question]) -> tuple[tuple[str, tuple[Question, ...]], ...]:
    """(split, its questions), in order."""
    return tuple((split, tuple(group)) for split, group in groupby(questions, key=lambda question: question.split))
