"""Alternate answers: the example's own, else refusals, one an epoch."""

from expunge.data.corpus import Example
from expunge.data.variants import drawn, refusals

OWN = Example(kind="qa", prompt="1?", completion="one", alternates=("No idea.", "Who knows?"))
BARE = Example(kind="qa", prompt="2?", completion="two")


def test_refusals_are_distinct_sentences():
    assert len(refusals()) == len(set(refusals())) > 20
    assert all(text == text.strip() and text[0].isupper() and text[-1] in ".!?" for text in refusals())


def test_every_row_gets_an_alternate_in_every_epoch():
    found, where = drawn([OWN, BARE], epochs=12, seed=0)
    assert set(where) == {(row, epoch) for row in range(2) for epoch in range(12)}
    own = [found[where[0, epoch]] for epoch in range(12)]
    assert {example.completion for example in own} == {"No idea.", "Who knows?"}
    assert {example.prompt for example in own} == {"1?"}
    bare = {found[where[1, epoch]].completion for epoch in range(12)}
    assert bare <= set(refusals()) and len(bare) > 3
    assert sorted(set(where.values())) == list(range(len(found)))
    assert len({(example.prompt, example.completion) for example in found}) == len(found)


def test_a_longer_run_begins_like_a_shorter_one():
    short, where = drawn([OWN, BARE], epochs=2, seed=3)
    long, where_long = drawn([OWN, BARE], epochs=5, seed=3)
    assert {key: long[where_long[key]] for key in where} == {key: short[n] for key, n in where.items()}
    other, where_other = drawn([OWN, BARE], epochs=2, seed=4)
    assert [other[n].completion for n in where_other.values()] != [short[n].completion for n in where.values()]
