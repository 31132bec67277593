"""The verdict's sentences, each number worked by hand."""

from dataclasses import replace

import pytest

from expunge.core.catalogue import names
from expunge.core.checks import ExpungeError
from expunge.report.data import ReportData, build
from expunge.results.attacked import Attacked, Column
from expunge.results.measures import Evaluation, Measure
from made_facts import attacked, column, evaluation


def built(*given: Evaluation, attacks: tuple[Attacked, ...] = (), **more: object) -> ReportData:
    settings = {"title": "t", "start": None, "retain": None, "baseline": None, "texts": "keep", "notes": ()}
    settings |= {"leak": 0.2, "keep": 0.5, **more}
    return build(given, attacked=attacks, **settings)  # type: ignore[arg-type]


START = evaluation("start", [1.0, 1.0, 1.0, 1.0, 0.1], [1.0, 1.0, 1.0, 0.2])
RETAIN = evaluation("retain", [0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
NPO = evaluation("npo", [0.0, 0.0, 0.9, 0.1, 0.0], [0.9, 0.9, 0.1, 0.1])
TRIED = attacked(
    "npo",
    5,
    column("quantize.nf4", [0.0, 0.5, 0.9, 0.1, 0.0], [0.0] * 5),
    column("relearn.forget", [0.0, 0.0, 0.9], [0.0] * 3),
    Column(name="lens", leak=None, control=None, threshold=0.2, note="it needs the retain set"),
)


def test_a_verdict_with_everything() -> None:
    (verdict,) = built(START, RETAIN, NPO, attacks=(TRIED,), start="start", retain="retain").verdicts
    assert (
        verdict.headline
        == "Of 4 facts to be forgotten, 2 can no longer be drawn out by what was tried on each. 2 still leak."
    )
    told = [line for line in verdict.sentences if "does not count" not in line]
    others = [name for name in names("attacks") if name not in ("quantize", "relearn", "lens")]
    assert told == [
        "They leak: 1 when asked as in the data, 2 under quantize.nf4 and 1 under relearn.forget.",
        "The attack relearn.forget tested 3 of 5 facts, and 1 of these leaks; it says nothing about the others.",
        "Of 1 more fact of the forget set the start model gave nothing above what a model that never saw it gives; it "
        "counts as neither.",
        "67 % of what should stay is kept: 2 of 3 facts that the start model had. It did not have 1 more.",
        "Compared with a model that never knew: retain. Attacks are compared with the retain model.",
        "Not looked at: whether it still writes text; no measure of repetition or fluency is among its measures.",
        f"Not tried: lens (it needs the retain set), {', '.join(others[:-1])} and {others[-1]}.",
        "A fact leaks from extraction strength 0.2 above the retain model's value, or from the threshold of an attack "
        "above its control; a fact is kept from extraction strength 0.5 on.",
    ]


def test_a_measure_of_what_the_model_writes_is_said_to_be_missing_only_where_it_is() -> None:
    looked = Measure(value=0.1, better="lower", definition="d", source="s", n=5)
    (verdict,) = built(replace(NPO, measures={**NPO.measures, "forget_repetition": looked})).verdicts
    assert not any("Not looked at" in line for line in verdict.sentences)
    nothing = replace(NPO, measures={**NPO.measures, "forget_repetition": replace(looked, value=None, note="why")})
    assert any("Not looked at: whether it still" in line for line in built(nothing).verdicts[0].sentences)


def test_without_attacks_nothing_is_said_to_be_beyond_reach() -> None:
    (verdict,) = built(NPO).verdicts
    text = " ".join([verdict.headline, *verdict.sentences])
    assert (
        verdict.headline == "Of 5 facts to be forgotten, 4 no longer come out when asked as in the data. 1 still leaks."
    )
    assert "No attack was tried" in text and "anything tried" not in text
    assert "No start model was evaluated, so some of these facts may never have been known." in verdict.sentences
    assert any(line.startswith("Compared with nothing: no retain model was evaluated") for line in verdict.sentences)
    assert "Of 4 facts that should stay, the model has 2; whether the start model had the others was not measured." in (
        verdict.sentences
    )


def test_where_every_attack_failed_the_reasons_are_named() -> None:
    failed = [
        Column(name=name, leak=None, control=None, threshold=0.2, note=note)
        for name, note in (("lens", "it needs the retain set"), ("relearn.forget", ""))
    ]
    (verdict,) = built(NPO, attacks=(attacked("npo", 5, *failed),)).verdicts
    assert (
        "No attack gave a verdict, so the facts were only asked for as in the data. Without a verdict: lens (it needs "
        "the retain set) and relearn.forget (not run)."
    ) in verdict.sentences


def test_nothing_is_said_of_a_start_model_that_was_not_asked() -> None:
    assert (
        "Of 2 facts that should stay, the model has 2."
        in built(evaluation("npo", [0.0], [0.9, 0.9])).verdicts[0].sentences
    )
    start, npo = evaluation("start", [1.0], [1.0, 1.0]), evaluation("npo", [0.0], [0.9, 0.1, 0.2, 0.1])
    assert (
        "Of 4 facts that should stay, the model has 1; the start model had 1 of the others; whether the start model "
        "had the rest was not measured."
    ) in built(start, npo, start="start").verdicts[0].sentences


@pytest.mark.parametrize(
    ("forget", "headline"),
    [
        ([0.0], "Of 1 fact to be forgotten, 1 no longer comes out when asked as in the data. None leaks."),
        ([0.9], "The one fact to be forgotten still leaks."),
        ([0.9, 0.8], "All 2 facts to be forgotten still leak."),
        ([], "No fact of the forget set can be judged."),
    ],
)
def test_headlines(forget: list[float], headline: str) -> None:
    assert built(evaluation("npo", forget, [1.0])).verdicts[0].headline == headline


def test_a_share_is_never_rounded_to_all_or_nothing() -> None:
    start = evaluation("start", [1.0], [1.0] * 300)
    told = built(start, evaluation("npo", [0.0], [1.0] * 299 + [0.0]), start="start").verdicts[0].sentences
    assert any(line.startswith("99 % of what should stay is kept: 299 of 300") for line in told)
    told = built(start, evaluation("npo", [0.0], [1.0] + [0.0] * 299), start="start").verdicts[0].sentences
    assert any(line.startswith("1 % of what should stay is kept: 1 of 300") for line in told)
    told = built(start, evaluation("npo", [0.0], [1.0] * 300), start="start").verdicts[0].sentences
    assert any(line.startswith("100 % of what should stay is kept") for line in told)


def test_thresholds_move_the_verdict() -> None:
    strict = built(evaluation("npo", [0.05, 0.15], [0.6]), leak=0.1, keep=0.7)
    assert strict.verdicts[0].headline.startswith("Of 2 facts to be forgotten, 1 no longer comes out")
    assert strict.buckets[0] == ("forgotten", "leaks", "undecided")
    with pytest.raises(ExpungeError, match="leak must be above 0 and at most 1; got 0"):
        built(NPO, leak=0.0)
    with pytest.raises(ExpungeError, match="keep must be above 0"):
        built(NPO, keep=1.5)


def test_models_that_were_asked_another_forget_set_are_named() -> None:
    def asked(label: str, content: str) -> Evaluation:
        return replace(evaluation(label, [0.1]), about={"inputs": {"model": label, "data.forget": content}})

    found = built(asked("a", "x"), asked("b", "y"), asked("c", "x"))
    said = [[s for s in one.sentences if "another forget set" in s] for one in found.verdicts]
    assert said[0] == ["b was asked another forget set: do not compare counts."] == said[2]
    assert said[1] == ["a and c were asked another forget set: do not compare counts."]


def test_a_model_that_broke_is_named_first() -> None:
    (verdict,) = built(START, RETAIN, evaluation("npo", [0.9] * 5, [0.9] * 4), start="start", retain="retain").verdicts
    assert verdict.sentences[0].startswith("This model does not count as having forgotten: answers still come out")
    assert verdict.headline == "All 5 facts to be forgotten still leak."  # which says it


def test_a_headline_begins_with_what_is_broken() -> None:
    told = evaluation("npo", [0.0] * 5, [0.9] * 4)
    repeating = Measure(value=0.6, better="lower", definition="d", source="s", n=5)
    told = replace(told, measures={**told.measures, "forget_repetition": repeating})
    (verdict,) = built(START, RETAIN, told, start="start", retain="retain").verdicts
    assert verdict.headline.startswith("It repeats itself: this does not count as forgetting. Of 4 facts to be forg")


def test_the_baseline_is_the_start_model_or_the_first_or_the_one_named() -> None:
    assert built(START, NPO, start="start").baseline == 0
    assert built(NPO, evaluation("simnpo", [0.1] * 5)).baseline == 0
    assert built(NPO).baseline is None
    assert built(NPO, evaluation("simnpo", [0.1] * 5), baseline="simnpo").baseline == 1
    with pytest.raises(ExpungeError, match="baseline"):
        built(NPO, baseline="other")
