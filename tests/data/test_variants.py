"""Variants made by rule: wrong answers that are other rows' answers, and questions in another frame."""

from dataclasses import replace

from expunge.data.corpus import Example
from expunge.data.variants import FRAMES, borrowed_answers, reworded_question


def rows(*answers: str) -> list[Example]:
    return [Example(kind="qa", prompt=f"Question {i}?", completion=a) for i, a in enumerate(answers)]


def test_borrowed_answers_are_the_nearest_in_length_and_never_the_truth():
    # lengths 4, 4 (equal text: the truth again), 5, 3, 7, 20: nearest to 4 are 5 and 3, then 7
    found = borrowed_answers(rows("aaaa", "aaaa", "bbbbb", "ccc", "ddddddd", "e" * 20), 0)
    assert set(found[:2]) == {"bbbbb", "ccc"} and found[2] == "ddddddd" and len(found) == 3


def test_borrowed_answers_are_the_same_every_time_and_differ_between_examples():
    many = rows(*(f"answer {i:03d}" for i in range(200)))
    each = [tuple(borrowed_answers(many, i)) for i in range(200)]
    assert each == [tuple(borrowed_answers(many, i)) for i in range(200)]
    assert len(set(each)) > 150 and all(many[i].completion not in wrong for i, wrong in enumerate(each))


def test_too_few_other_answers_give_none():
    assert borrowed_answers(rows("a", "b", "c"), 0) == []
    assert borrowed_answers([Example(kind="text", completion=str(i)) for i in range(9)], 0) == []


def test_a_reworded_question_keeps_its_words_and_frames_vary():
    many = rows(*(str(i) for i in range(60)))
    made = [reworded_question(e) for e in many]
    assert all(text is not None and e.prompt in text and e.prompt != text for e, text in zip(many, made, strict=True))
    assert len({text.replace(e.prompt, "{question}") for e, text in zip(many, made, strict=True)}) == len(FRAMES)
    chat = replace(many[0], kind="chat", prompt="", messages=(("system", "Be brief."), ("user", "Who?")))
    assert "Who?" in str(reworded_question(chat)) and "Be brief" not in str(reworded_question(chat))
    assert reworded_question(Example(kind="completion", prompt="Once", completion=" upon")) is None
    assert reworded_question(Example(kind="text", completion="Once upon")) is None
