"""Facts: each question of each set with what every model and every attack made of it."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from expunge.core.checks import ExpungeError
from expunge.report.compared_models import Model
from expunge.results.attacked import MERGED, Attacked, Column
from expunge.results.measures import Evaluation, Sample
from expunge.results.texts import Texts, is_hash, text_hash

FORGET, RETAIN = "forget", "retain"
"""Sets whose names begin so are to be forgotten, and to be kept."""
KNOWLEDGE = ("extraction_strength", "probability", "rouge")
"""What a fact is judged by: the first that every model has on every fact."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one model said about a fact, and its numbers."""

    generation: str | None
    """None where the texts were left out."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """By measure."""
    tokens: tuple[tuple[str, float], ...] = ()
    """The true answer in pieces, each with the probability that the model gives it after what stands before it.

    What closes the answer is an empty piece at the end.
    """

    def value(self, measure: str) -> float | None:
        """The value of a measure without the name of the set before it."""
        return next((value for name, value in self.values.items() if plain(name) == measure), None)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one attack drew out about a fact, at the step where it was furthest above the control."""

    value: float | None
    control: float | None
    """The same of the control; None where there is none."""
    recovery: float | None
    """How much more came out than of the control."""
    leaks: bool
    step: float | None = None
    """After how many steps of the attack that was; None: it was not measured along the way."""
    prompt: str | None = None
    """What was asked; None: the question itself, or not kept."""
    text: str | None = None
    """What the model said at the end; None where nothing was generated, or it was not kept."""
    control_text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One question, its true answer, and what came of it."""

    split: str
    number: int
    """Position in its set, from 0."""
    question: str
    answer: str
    said: tuple[Said | None, ...]
    """By model; None where it was not asked."""
    tried: Mapping[int, Tried] = field(default_factory=dict)
    """By the number of the attack."""

    def with_texts(self, texts: Texts) -> "Fact":
        """The fact as it is to be shown: with its texts, with their SHA-256 in their place, or without."""
        if texts == "keep":
            return self

        def hidden(text: str | None) -> str | None:
            return None if text is None or texts == "drop" else _hashed(text)

        said = tuple(one and replace(one, generation=hidden(one.generation), tokens=()) for one in self.said)
        tried = {
            i: replace(one, prompt=hidden(one.prompt), text=hidden(one.text), control_text=hidden(one.control_text))
            for i, one in self.tried.items()
        }
        question, answer = hidden(self.question) or "", hidden(self.answer) or ""
        return replace(self, question=question, answer=answer, said=said, tried=tried)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack on one of the models."""

    model: int
    column: Column
    against: str | None
    """What it was compared with; None: with nothing."""


@cache
def plain(measure: str) -> str:
    """A measure's name without the set before it: `retain_rouge` is `rouge`."""
    return next((known for known in KNOWLEDGE if measure.endswith(f"_{known}")), measure)


def joined(models: Sequence[Model], attacked: Sequence[Attacked]) -> tuple[list[Model], list[Attack], list[Fact]]:
    """Models, attacks and facts, each fact once: forget sets, retain sets, then the others.

    Facts are the same where set, question and true answer are. Where a model's texts were left out, its rows are taken
    in the order of the set. An attacked model that was not evaluated joins the models, with nothing measured.

    Raises:
        ExpungeError: attacks have the label of a model with other weights or are about another forget set than its
            evaluation, or models whose texts were left out were asked different sets.
    """
    models = list(models)
    attacks: list[Attack] = []
    owners: list[int] = []
    for found in attacked:
        owner = _owner(found, models)
        if owner is None:
            models.append(Model(Evaluation(measures={}, label=found.label)))
            owner = len(models) - 1
        owners.append(owner)
        attacks += [Attack(model=owner, column=column, against=found.control) for column in found.columns]
    bare = _bare(models)
    _check_sets(models, bare)
    _check_attacked(models, attacked, owners, FORGET in bare)
    facts = _facts(models, attacked, bare)
    at = 0
    for found in attacked:
        _add(found, at, facts)
        at += len(found.columns)
    ordered = sorted(facts, key=lambda fact: _place(fact.split))
    return models, attacks, ordered


def fitting(
    models: Sequence[Model], given: Sequence[Attacked], found: Mapping[Path, Attacked]
) -> tuple[list[Attacked], list[str]]:
    """The attacks to be shown: those that were handed in, and of those that were found the ones that fit the models.

    Args:
        models: what they are to stand beside.
        given: they must fit, which is left to `joined`.
        found: by file; one that does not fit, such as attacks on an earlier run of the same name, is left out.

    Returns:
        The attacks, and a sentence for each that was left out.
    """
    kept, notes = [*given], []
    for file, one in found.items():
        try:
            if _owner(one, models) is None and models:
                raise ExpungeError(f"the attacks labeled '{one.label}' are on another model than those shown.")
            joined(models, [*kept, one])
        except ExpungeError as error:
            notes.append(f"{file.parent.name}/{file.name} was left out: {error}")
        else:
            kept.append(one)
    return kept, notes


def measure_of(facts: Sequence[Fact]) -> str | None:
    """The measure that facts are judged by; None where none was taken of every fact that has numbers."""
    said = [one for fact in facts if _place(fact.split) < 2 for one in fact.said if one is not None and one.values]
    taken = [{plain(name) for name in one.values} for one in said]
    return next((name for name in KNOWLEDGE if taken and all(name in names for names in taken)), None)


def _place(split: str) -> int:
    return next((i for i, prefix in enumerate((FORGET, RETAIN)) if split.startswith(prefix)), 2)


def _owner(found: Attacked, models: Sequence[Model]) -> int | None:
    """Which model was attacked, told by its weights; by its label where they cannot be compared.

    They cannot where one of the two does not name them, or where adapters were merged before the attacks.
    """
    weights = found.inputs.get("model")
    theirs = [model.evaluation.about.get("inputs", {}).get("model") for model in models]
    if weights is not None and weights in theirs:
        return theirs.index(weights)
    place = next((i for i, model in enumerate(models) if model.label == found.label), None)
    merged = any(column.name == MERGED for column in found.columns)
    if place is None or merged or weights is None or theirs[place] is None:
        return place
    raise ExpungeError(
        f"the attacks labeled '{found.label}' are on other weights ({weights}) than the evaluation of that label "
        f"({theirs[place]}), and on those of no other one. Attack and evaluate the same model in the same dtype, or "
        "give the attacks a label of their own."
    )


_Key = tuple[str, str, str, int]


def _hashed(text: str) -> str:
    return text if not text or is_hash(text) else text_hash(text)


def _bare(models: Sequence[Model]) -> set[str]:
    """The sets of which some model has no texts, so that rows are told by their places."""
    return {one.split for model in models for one in model.evaluation.samples if not one.question and not one.answer}


def set_of(model: Model, split: str) -> str | None:
    """Fingerprint of a set that a model was asked; None where it is not known."""
    found: str | None = model.evaluation.about.get("inputs", {}).get(f"data.{split}")
    return found


def _check_sets(models: Sequence[Model], bare: Iterable[str]) -> None:
    """Rows that are told by their places must be those of one set."""
    for split in sorted(bare):
        asked = [model for model in models if any(one.split == split for one in model.evaluation.samples)]
        sets = {model.label: found for model in asked if (found := set_of(model, split)) is not None}
        if len(set(sets.values())) > 1:
            raise ExpungeError(
                f"these models were asked different sets '{split}', {_told(sets)}, and without texts nothing says "
                "which rows are the same. Evaluate all of them on the same file, or keep the texts (texts=keep)."
            )


def _check_attacked(models: Sequence[Model], attacked: Sequence[Attacked], owners: Sequence[int], bare: bool) -> None:
    """Attacks must be about the forget set that their model was asked; about that of all where texts are missing."""
    for i, (found, owner) in enumerate(zip(attacked, owners, strict=True)):
        own = found.inputs.get(FORGET)
        if own is None:
            continue
        beside = [model for j, model in enumerate(models) if bare or j == owner]
        sets = {f"evaluation of {model.label}": one for model in beside if (one := set_of(model, FORGET)) is not None}
        sets |= {
            f"other attacks on {other.label}": other.inputs[FORGET]
            for other, of in zip(attacked[:i], owners, strict=False)
            if FORGET in other.inputs and (bare or of == owner)
        }
        if set(sets.values()) - {own}:
            raise ExpungeError(
                f"the attacks on {found.label} are about another forget set than what they are to stand beside: "
                f"{_told({f'attacks on {found.label}': own, **sets})}. Evaluate and attack the model on the same "
                "forget set, or leave one of the two out."
            )


def _told(sets: Mapping[str, str]) -> str:
    return ", ".join(f"{who}: {fingerprint}" for who, fingerprint in sets.items())


def _facts(models: Sequence[Model], attacked: Iterable[Attacked], bare: Collection[str]) -> list[Fact]:
    found: dict[_Key, Fact] = {}
    for i, model in enumerate(models):
        seen: Counter[tuple[str, str, str]] = Counter()
        for sample in model.evaluation.samples:
            known = sample.split in bare
            asked = (sample.split, *(("", "") if known else (_hashed(sample.question), _hashed(sample.answer))))
            key = (*asked, seen[asked])
            seen[asked] += 1
            if key not in found:
                found[key] = Fact(
                    split=sample.split, number=0, question="", answer="", said=(None,) * len(models), tried={}
                )
            found[key] = _with(found[key], i, sample)
    counted: Counter[str] = Counter()
    facts = []
    for fact in found.values():
        facts.append(replace(fact, number=counted[fact.split], tried={}))
        counted[fact.split] += 1
    if FORGET not in counted:
        facts += _of_attacks(attacked, len(models))
    return facts


def _with(fact: Fact, model: int, sample: Sample) -> Fact:
    """The fact with what a model said; a text is preferred to its hash."""
    said = Said(generation=sample.generation, values=sample.values, tokens=_tokens(sample))
    texts = {
        name: getattr(sample, name)
        for name in ("question", "answer")
        if not getattr(fact, name) or is_hash(getattr(fact, name))
    }
    return replace(fact, said=(*fact.said[:model], said, *fact.said[model + 1 :]), **texts)


def _tokens(sample: Sample) -> tuple[tuple[str, float], ...]:
    """The true answer in pieces that can be shown, with their probabilities; what closes it is an empty piece.

    Tokens that are parts of one character end in the same place: they are one piece, with the product of their
    probabilities. A token without a character of its own goes with the next piece.
    """
    size, begun = len(sample.answer), 0
    found: list[tuple[str, float]] = []
    pairs = zip(sample.ends, sample.probabilities, strict=True) if sample.ends else ()
    runs = [(end, [p for _, p in run]) for end, run in groupby(pairs, itemgetter(0))]
    closing: list[float] = []
    if runs and runs[-1][0] == size:
        # What closes the answer ends where its text does. A last character of one byte is one token; of another one,
        # all tokens but the last may be its bytes.
        last = runs[-1][1]
        own = min(size, 1) if sample.answer[-1:].isascii() else max(1, len(last) - 1)
        runs[-1], closing = (size, last[:own]), last[own:]
    waiting: list[float] = []
    for end, run in runs:
        waiting += run
        if end > begun:
            found.append((sample.answer[begun:end], math.prod(waiting)))
            begun, waiting = end, []
    return (*found, ("", math.prod(closing))) if closing else tuple(found)


def _of_attacks(attacked: Iterable[Attacked], models: int) -> list[Fact]:
    """The facts of attacks on models of which none was evaluated."""
    found = next(iter(attacked), None)
    if found is None:
        return []
    answers = found.answers or ("",) * len(found.questions)
    return [
        Fact(split=FORGET, number=i, question=question, answer=answer, said=(None,) * models, tried={})
        for i, (question, answer) in enumerate(zip(found.questions, answers, strict=True))
    ]


def _add(found: Attacked, at: int, facts: list[Fact]) -> None:
    """Give the facts what attacks drew out about them; a fact that they do not hold is added."""
    places = [i for i, fact in enumerate(facts) if fact.split == FORGET]
    known: dict[tuple[str, int], int] = {}
    seen: Counter[str] = Counter()
    for i in places:
        question = _hashed(facts[i].question)
        known[question, seen[question]] = i
        seen[question] += 1
    bare = len(places) == len(found.questions) and not any(facts[i].question for i in places)
    asked: Counter[str] = Counter()
    cells = [_cells(column) for column in found.columns]
    for number, question in enumerate(found.asked):
        place = places[number] if bare else known.get((question, asked[question]))
        asked[question] += 1
        tried = {at + i: of[number] for i, of in enumerate(cells) if number in of}
        if place is None:
            (fact,) = _of_attacks([replace(found, questions=found.questions[number : number + 1], answers=())], 0)
            width = len(facts[0].said) if facts else 0
            facts.append(replace(fact, number=len(places), said=(None,) * width, tried=tried))
            places.append(len(facts) - 1)
        else:
            facts[place] = replace(facts[place], tried={**facts[place].tried, **tried})


def _cells(column: Column) -> dict[int, Tried]:
    """By fact, what an attack drew out."""
    if column.leak is None:
        return {}
    other = column.control
    theirs = {} if other is None else {fact: i for i, fact in enumerate(other.facts)}
    reached, cells = column.reached, {}
    for i, fact in enumerate(column.leak.facts):
        here, j = reached.get(fact), theirs.get(fact)
        cells[fact] = Tried(
            value=column.leak.values[i] if here is None else here.value,
            control=None if here is None else here.control,
            recovery=None if here is None else here.recovery,
            leaks=here is not None and here.recovery >= column.threshold,
            step=None if here is None else here.step,
            prompt=_one(column.leak.prompts, i),
            text=_one(column.leak.texts, i),
            control_text=None if other is None or j is None else _one(other.texts, j),
        )
    return cells


def _one(texts: Sequence[str], place: int) -> str | None:
    """One of a leak's texts; None where it keeps none."""
    return texts[place] if texts else None
