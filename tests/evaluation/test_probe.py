"""Which records serve which question."""

from dataclasses import replace

import pytest

from expunge.evaluation.probe import Probe

FULL = Probe(split="forget", generate=True, moments=True, gradients=True, max_new_tokens=50)


@pytest.mark.parametrize("less", [{"generate": False}, {"moments": False}, {"gradients": False}])
def test_what_holds_more_covers_what_asks_for_less(less: dict) -> None:
    asked = replace(FULL, **less)
    assert FULL.covers(FULL) and FULL.covers(asked)
    assert not asked.covers(FULL)


def test_length_counts_where_something_is_written() -> None:
    assert not FULL.covers(replace(FULL, max_new_tokens=20))
    assert FULL.covers(replace(FULL, generate=False, max_new_tokens=20))
    for answer in ("opening", "continuation", "sequence"):  # cut at that length
        cut = Probe(split="forget", answer=answer, max_new_tokens=50)
        assert not cut.covers(replace(cut, max_new_tokens=20))


@pytest.mark.parametrize("other", [{"split": "retain"}, {"asked": "paraphrased_question"}, {"limit": 3}])
def test_other_rows_are_other_records(other: dict) -> None:
    assert not FULL.covers(replace(FULL, **other))
