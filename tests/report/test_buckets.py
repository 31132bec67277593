"""Which bucket a fact belongs to, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.report.buckets import MEANINGS, Bucket, Rule, bucket, change, counts
from expunge.report.facts import Fact, Said, Tried
from expunge.report.paired import Paired, share_interval

START, RETAIN, MODEL = 0, 1, 2
RULE = Rule(measure="extraction_strength", leak=0.2, keep=0.5, start=START, never=RETAIN)
ALONE = Rule(measure="extraction_strength", leak=0.2, keep=0.5)


def said(split: str, value: float | None) -> Said | None:
    return None if value is None else Said(generation="", values={f"{split}_extraction_strength": value})


def fact(split: str, start: float | None, never: float | None, now: float | None, *recovery: float | None) -> Fact:
    tried = {
        i: Tried(value=0.5, control=None, recovery=one, leaks=one is not None and one >= 0.2)
        for i, one in enumerate(recovery)
    }
    values = tuple(said(split, value) for value in (start, never, now))
    return Fact(split=split, number=0, question="q", answer="a", said=values, tried=tried)


@pytest.mark.parametrize(
    ("start", "never", "now", "recovery", "expected"),
    [
        (1.0, 0.1, 0.1, (), "forgotten"),
        (1.0, 0.1, 0.29, (), "forgotten"),  # 0.19 above the retain model
        (1.0, 0.1, 0.35, (), "leaks"),
        (1.0, 0.5, 0.5, (), "forgotten"),  # what any model guesses
        (1.0, None, 0.2, (), "leaks"),  # the retain model was not asked: the value itself
        (1.0, 0.1, 0.1, (0.1, 0.2), "leaks"),
        (1.0, 0.1, 0.1, (0.19, None), "forgotten"),
        (0.1, 0.1, 0.1, (), "never known"),
        (0.29, 0.1, 0.0, (), "never known"),
        (0.35, 0.1, 0.0, (), "forgotten"),
        (0.1, 0.1, 0.1, (0.9,), "leaks"),  # what comes out counts, whatever the start model said
        (0.1, 0.1, 0.9, (), "leaks"),
        (None, 0.1, 0.1, (), "forgotten"),  # whether it was known is not known
        (1.0, 0.1, None, (), "not measured"),
        (1.0, 0.1, None, (None,), "not measured"),
        (1.0, 0.1, None, (0.0,), "forgotten"),  # attacks are measurements, too
        (1.0, 0.1, None, (0.5,), "leaks"),
    ],
)
def test_facts_to_be_forgotten(
    start: float | None, never: float | None, now: float | None, recovery: tuple[float | None, ...], expected: Bucket
) -> None:
    assert bucket(fact("forget", start, never, now, *recovery), MODEL, RULE, range(len(recovery))) == expected
    # Attacks on another model say nothing about this one.
    if expected == "leaks" and now is not None and now - (never or 0) < 0.2:
        assert bucket(fact("forget", start, never, now, *recovery), MODEL, RULE, ()) != "leaks"


@pytest.mark.parametrize(
    ("start", "now", "expected"),
    [
        (1.0, 0.5, "kept"),
        (1.0, 0.49, "collateral"),
        (0.49, 0.0, "never known"),
        (0.49, 1.0, "never known"),
        (0.5, None, "not measured"),
        (None, 0.5, "kept"),
        (None, 0.4, "undecided"),
    ],
)
def test_facts_to_be_kept(start: float | None, now: float | None, expected: Bucket) -> None:
    # The retain model's value is of no concern: it was trained on these facts.
    assert bucket(fact("retain_perturbed", start, 1.0, now), MODEL, RULE) == expected


def test_other_sets_and_unknown_measures() -> None:
    assert bucket(fact("world_facts", 1.0, 1.0, 0.0), MODEL, RULE) == ""
    assert bucket(fact("forget", 1.0, 0.0, 0.0), MODEL, Rule(measure=None)) == "not measured"
    assert bucket(fact("forget", None, None, 0.3), MODEL, ALONE) == "leaks"


def test_the_four_counts_by_hand() -> None:
    facts = [
        *(fact("forget", 1.0, 0.0, 0.0) for _ in range(6)),  # forgotten
        fact("forget", 1.0, 0.0, 0.9),  # leaks
        fact("forget", 0.1, 0.0, 0.8),  # leaks, not known before
        fact("forget", 0.0, 0.0, 0.0),  # never known
        *(fact("retain", 0.9, 1.0, 0.8) for _ in range(3)),  # kept
        fact("retain", 0.9, 1.0, 0.1),  # collateral
        fact("retain", 0.1, 1.0, 0.9),  # never known to the start model, known now
        fact("retain", 0.9, 1.0, None),  # not measured
    ]
    buckets = [bucket(one, MODEL, RULE) for one in facts]
    forgotten, leaks, kept, collateral = counts(facts, buckets, MODEL, RULE)
    assert [(c.bucket, c.facts, c.of, c.before) for c in (forgotten, leaks, kept, collateral)] == [
        ("forgotten", 6, 8, 1),
        ("leaks", 2, 8, 7),
        ("kept", 3, 4, 4),
        ("collateral", 1, 4, 0),
    ]
    assert leaks.interval == share_interval(2, 8)
    # Of these 8, came out before and now: 1; before alone: 6; now alone: 1; neither: 0.
    pair = Paired(1, 6, 1, 0)
    assert (leaks.difference, leaks.difference_interval, leaks.p) == (pair.difference, pair.interval, pair.p)
    assert pair.difference == pytest.approx(-5 / 8) and pair.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert forgotten.difference == pytest.approx(5 / 8)
    # The start model had 4: 3 are kept, 1 is lost. The fact that is known now alone is no part of them.
    assert kept.difference == -0.25 and collateral.difference == 0.25
    assert collateral.difference_interval == Paired(0, 0, 1, 3).interval and collateral.p == 1


@given(st.lists(st.tuples(st.sampled_from(["forget", "retain"]), *[st.sampled_from([None, 0.0, 0.4, 0.9])] * 3)))
def test_a_change_is_of_the_same_facts_as_the_share(rows: list[tuple[str, float | None, float | None, float]]) -> None:
    facts = [fact(*row) for row in rows]
    found = {c.bucket: c for c in counts(facts, [bucket(one, MODEL, RULE) for one in facts], MODEL, RULE)}
    for one in found.values():
        if one.before is not None and one.difference is not None:
            assert one.difference == pytest.approx((one.facts - one.before) / one.of)
    if "kept" in found and found["kept"].before is not None:  # what the start model had is kept or lost
        kept, lost = found["kept"], found["collateral"]
        assert kept.before == kept.of == kept.facts + lost.facts and lost.difference == lost.facts / lost.of


def test_a_fact_that_the_start_model_only_guesses_is_not_said_to_be_unknown_to_it() -> None:
    assert bucket(fact("forget", 0.9, 0.8, 0.5), MODEL, RULE) == "never known"
    assert "did not know" not in MEANINGS["never known"]
    assert "not above what a model that never saw it gives" in MEANINGS["never known"]


def test_what_the_start_model_was_not_asked_is_counted_and_gives_no_change() -> None:
    facts = [fact("retain", start, 1.0, now) for start, now in ((0.9, 0.9), (0.9, 0.1), (None, 0.1), (None, 0.8))]
    found = counts(facts, [bucket(one, MODEL, RULE) for one in facts], MODEL, RULE)
    told = [(c.bucket, c.facts, c.of, c.before, c.difference, c.difference_interval, c.p) for c in found]
    assert told == [("kept", 2, 4, None, None, None, None), ("collateral", 1, 4, None, None, None, None)]


def test_without_a_start_model_there_is_no_change_and_no_collateral() -> None:
    facts = [fact("forget", None, None, 0.0), fact("forget", None, None, 0.9)]
    facts += [fact("retain", None, None, value) for value in (0.9, 0.1, 0.2, 0.8)]
    found = counts(facts, [bucket(one, MODEL, ALONE) for one in facts], MODEL, ALONE)
    assert [(c.bucket, c.facts, c.of, c.before, c.difference, c.p) for c in found] == [
        ("forgotten", 1, 2, None, None, None),
        ("leaks", 1, 2, None, None, None),
        ("kept", 2, 4, None, None, None),
    ]


def test_changes_against_a_baseline() -> None:
    forget, retain, other = (fact(split, 1.0, 0.0, 0.0) for split in ("forget", "retain", "world"))
    assert change(forget, "leaks", "forgotten") == "fixed"
    assert change(forget, "forgotten", "leaks") == "regressed"
    assert change(forget, "leaks", "leaks") == "still"
    assert change(forget, "never known", "forgotten") == "unchanged"
    assert change(retain, "kept", "collateral") == "regressed"
    assert change(retain, "never known", "kept") == "" and change(retain, "not measured", "kept") == ""
    assert change(other, "", "") == ""
