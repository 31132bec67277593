"""Variants made by rule where the data have none: wrong answers from other rows, and questions in another frame."""

import random
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from expunge.data.corpus import Example
from expunge.data.pairing import alternate_choice

WRONG = 3
CANDIDATES = 32
FRAMES = (
    "Please answer the following question: {question}",
    "I would like to know something. {question}",
    "{question} Answer as exactly as you can.",
)


def borrowed_answers(examples: Sequence[Example], index: int) -> list[str]:
    """Wrong answers of one example: three answers to other questions of the same set.

    Of 32 rows drawn by the example's content, those whose answers come nearest to its own in length. They
    have the form of an answer but do not fit the question, so they are easier to distinguish from the truth than wrong
    answers that were written for it.

    Args:
        examples: the set.
        index: position of the example in it.

    Returns:
        Three distinct answers, none equal to the example's own; empty for plain text, and where the set has too few.
    """
    example = examples[index]
    if example.kind == "text":
        return []
    draw = random.Random(example.key)
    others = [i for i in range(len(examples)) if i != index]
    rows = draw.sample(others, min(CANDIDATES, len(others)))
    answers = dict.fromkeys(examples[i].completion for i in rows if examples[i].kind != "text")
    answers.pop(example.completion, None)
    nearest = sorted(answers, key=lambda text: abs(len(text) - len(example.completion)))
    return nearest[:WRONG] if len(nearest) >= WRONG else []


def reworded_question(example: Example) -> str | None:
    """The question inside another frame, one of three by the example's content; None where nothing is asked."""
    if example.kind not in ("qa", "chat"):
        return None
    frame = random.Random(example.key).randrange(len(FRAMES))
    return FRAMES[frame].format(question=example.question)


@cache
def refusals() -> tuple[str, ...]:
    """Our own list of sentences that decline to answer."""
    text = files("expunge.data").joinpath("refusals.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def drawn(examples: Sequence[Example], *, epochs: int, seed: int) -> tuple[list[Example], dict[tuple[int, int], int]]:
    """The alternate examples that a run will meet: one an epoch for each, its own if it has any, else a refusal.

    Returns:
        (examples with the alternate as completion, which of them goes with (row, epoch)); a pair drawn twice is held
        once.
    """
    found: list[Example] = []
    place: dict[tuple[int, str], int] = {}
    where: dict[tuple[int, int], int] = {}
    for row, example in enumerate(examples):
        choices = example.alternates or refusals()
        for epoch in range(epochs):
            text = choices[alternate_choice(row, n_alternates=len(choices), seed=seed, epoch=epoch)]
            if (row, text) not in place:
                place[row, text] = len(found)
                found.append(example.asking(text))
            where[row, epoch] = place[row, text]
    return found, where
