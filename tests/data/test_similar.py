"""Texts that are alike are found without comparing all with all."""

import random
import time

from expunge.data.similar import ALIKE, SHINGLE, nearly_the_same, repeated, words


def test_words_are_compared_without_case_punctuation_and_spacing() -> None:
    assert words("Who, then?\n  WHO…") == ("who", "then", "who")
    assert words("東京は? 12 ก") == ("東", "京", "は", "12", "ก")
    assert nearly_the_same(["", "?!", "Who?"], ["!", "who"]) == [(2, 1)]


def test_repeated_texts_name_the_first_one() -> None:
    assert repeated(["a", "b", "a", "a", "c", "b"]) == [(2, 0), (3, 0), (5, 1)]


def shingles(text: str) -> set[tuple[str, ...]]:
    found = text.split()
    return {tuple(found[i : i + SHINGLE]) for i in range(len(found) - SHINGLE + 1)}


def test_every_text_that_is_alike_enough_is_found() -> None:
    draw = random.Random(0)
    ones = [" ".join(draw.choice("abcdefghijkl") * 2 for _ in range(draw.randint(10, 60))) for _ in range(60)]
    others = []
    for n in range(300):
        text = draw.choice(ones).split()
        for _ in range(n % 8):  # a few words of each are others
            text[draw.randrange(len(text))] = "zz"
        others.append(" ".join(text))

    def share(one: str, other: str) -> float:
        a, b = shingles(one), shingles(other)
        return len(a & b) / len(a | b)

    best = {m: max(share(one, other) for one in ones) for m, other in enumerate(others)}
    expected = {m for m, value in best.items() if value >= ALIKE}
    assert 50 < len(expected) < 290
    found = nearly_the_same(ones, others)
    assert {m for _, m in found} == expected
    assert all(share(ones[n], others[m]) == best[m] for n, m in found)


def test_sets_in_which_all_rows_share_their_words_take_no_longer() -> None:
    rows = [f"this row says what every other row of this long set says as well, number {n}" for n in range(4000)]
    started = time.process_time()
    assert len(nearly_the_same(rows[:2000], rows)) == 4000
    assert time.process_time() - started < 5  # all with all would be eight million comparisons
