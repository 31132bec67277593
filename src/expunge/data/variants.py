"""Variants made by rule where the data have none: wrong answers from other rows, and questions in another frame."""

import random
from collections.abc import Sequence

from expunge.data.corpus import Example

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
    have the form of an answer but do not fit the question, so they are easier to tell from the truth than wrong answers
    that were written for it.

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
