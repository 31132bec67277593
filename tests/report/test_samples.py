from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from expunge.report.compared_models import Model, assign_roles
from expunge.report.samples import Piece, by_split, key_words, pieces, side_by_side
from expunge.results.measures import Evaluation, Sample


def asked(label: str, *samples: tuple[str, str, str, str]) -> Model:
    return Model(
        Evaluation(measures={}, label=label, samples=tuple(Sample(**dict(zip(KEYS, s, strict=True))) for s in samples))
    )


KEYS = ("split", "question", "answer", "generation")


def test_key_words_leave_out_the_question_and_grammar() -> None:
    question, answer = "What was the job of Ann Bo's father?", "The father of Ann Bo was a Clock-maker in 1987."
    assert key_words(question, answer) == {"clock-maker", "1987"}
    assert key_words("Is it so?", "Yes.") == {"yes"}  # nothing else is left, so the whole answer counts
    assert key_words("", "") == frozenset()


def test_pieces_mark_whole_words_only() -> None:
    marked = pieces("Art, artful ART", frozenset({"art"}))
    assert marked == (Piece("Art", True), Piece(", artful ", False), Piece("ART", True))


@given(st.text(), st.text(max_size=20))
def test_pieces_put_together_are_the_text(text: str, answer: str) -> None:
    assert "".join(piece.text for piece in pieces(text, key_words("", answer))) == text


def test_questions_are_joined_over_models_forget_first() -> None:
    one = asked("a", ("retain", "q1", "x", "a1"), ("forget", "q2", "y", "a2"), ("world", "q4", "w", "a4"))
    two = asked("b", ("forget", "q2", "y", "b2"), ("forget", "q3", "z", "b3"))
    found = side_by_side([one, two])
    assert [(q.split, q.question) for q in found] == [
        ("forget", "q2"),
        ("forget", "q3"),
        ("retain", "q1"),
        ("world", "q4"),
    ]
    assert [answer.pieces for answer in found[0].answers] == [(Piece("a2", False),), (Piece("b2", False),)]
    assert found[1].answers[0].pieces is None and found[2].answers[1].pieces is None
    assert [split for split, _ in by_split(found)] == ["forget", "retain", "world"]


def test_a_question_asked_twice_stands_there_twice() -> None:
    again = ("forget", "q", "x", "first"), ("forget", "q", "x", "second")
    found = side_by_side([asked("a", *again), asked("b", *again[:1])])
    assert [[a.pieces and a.pieces[0].text for a in q.answers] for q in found] == [["first", "first"], ["second", None]]


def test_found_counts_key_words_once() -> None:
    (question,) = side_by_side([asked("a", ("forget", "Where?", "In Nether Calloway.", "Calloway, calloway!"))])
    assert question.keys == 2 and question.answers[0].found == 1


def test_all_questions_of_the_fixture_are_kept(models: list[Evaluation], make_model: Callable[..., Evaluation]) -> None:
    silent = replace(make_model("NPO"), label="silent", samples=())
    found = side_by_side(assign_roles([*models, silent], start="start", retain="retain"))
    assert len(found) == 6
    assert all(len(question.answers) == 7 and question.answers[-1].pieces is None for question in found)
    assert found[1].answers[2].pieces == ()  # GradAscent said nothing
