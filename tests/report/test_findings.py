from collections.abc import Callable
from dataclasses import replace

import pytest

from expunge.report.compared_models import assign_roles
from expunge.report.summary import summary, warnings_of
from expunge.report.tables import comparison
from expunge.results.measures import Evaluation, Measure

Make = Callable[..., Evaluation]


def told(evaluations: list[Evaluation], start: str | None = "start", retain: str | None = "retain") -> tuple[str, ...]:
    return summary(assign_roles(evaluations, start=start, retain=retain))


def headline(evaluations: list[Evaluation], start: str | None = "start", retain: str | None = "retain") -> str:
    """What follows the faults, which come first."""
    return next(text for text in told(evaluations, start, retain) if "does not count as having forgotten" not in text)


def warned(
    evaluations: list[Evaluation], start: str | None = "start", retain: str | None = "retain"
) -> tuple[str, ...]:
    return warnings_of(assign_roles(evaluations, start=start, retain=retain), evaluations)


def with_value(evaluation: Evaluation, name: str, value: float) -> Evaluation:
    return replace(evaluation, measures={**evaluation.measures, name: replace(evaluation[name], value=value)})


def test_the_best_is_nearest_to_the_retain_model_among_those_that_kept(models: list[Evaluation]) -> None:
    # Kept of the start model's 0.942: GradAscent 0.004 = 0.425 %, GradDiff 0.431 = 45.8 %, NPO 84 %, SimNPO 95 %.
    # Distance to the retain model's 0.171 on forget: NPO 0.029, SimNPO 0.206.
    first, second, *references = [text for text in told(models) if "does not count" not in text]
    assert first == (
        "NPO comes nearest to the retain model on the forget set among the sound unlearned models that keep at least "
        "80 % of the start model's extraction strength on the retain set (2 of 4): extraction strength 0.142 on the "
        "forget set and 0.793 on the retain set. As far as the intervals say, SimNPO may be as near."
    )
    assert second.startswith("Less than that is kept by GradAscent (0.425 %) and GradDiff (45.8 %).")
    assert references == [
        "The start model has extraction strength 0.931 on the forget set and 0.942 on the retain set.",
        "The retain model has extraction strength 0.171 on the forget set and 0.939 on the retain set.",
    ]


def test_the_headline_says_whether_another_may_be_as_near(models: list[Evaluation]) -> None:
    def apart(evaluation: Evaluation, low: float, high: float) -> Evaluation:
        known = replace(evaluation["forget_extraction_strength"], interval=(low, high))
        return replace(evaluation, measures={**evaluation.measures, "forget_extraction_strength": known})

    # Distances to the retain model's 0.171: NPO 0.009 to 0.049, SimNPO 0.129 to 0.329.
    ranges = {"NPO": (0.122, 0.162), "SimNPO": (0.3, 0.5)}
    given = [apart(m, *ranges[m.label]) if m.label in ranges else m for m in models]
    assert headline(given).startswith("NPO comes nearest") and "may be as near" not in headline(given)
    # GradDiff reaches as near, and keeps too little to be a rival.
    near = [apart(m, 0.1, 0.2) if m.label == "GradDiff" else m for m in given]
    assert "may be as near" not in headline(near)


def test_the_summary_follows_the_numbers(models: list[Evaluation]) -> None:
    changed = [with_value(m, "retain_extraction_strength", 0.2) if m.label == "NPO" else m for m in models]
    assert headline(changed).startswith("SimNPO comes nearest")
    # GradDiff's 0.0311 is nearest to 0, the aim without a retain model; NPO's 0.142 to the retain model's 0.171.
    kept = [with_value(m, "retain_extraction_strength", 0.9) if m.label == "GradDiff" else m for m in models]
    assert headline(kept).startswith("NPO comes nearest to the retain model")
    alone = [model for model in kept if model.label != "retain"]
    assert headline(alone, retain=None).startswith("GradDiff comes nearest to 0 on the forget set")


def test_no_winner_where_nobody_kept_or_nobody_forgot(models: list[Evaluation]) -> None:
    start, retain, *_ = models
    broken = [with_value(m, "retain_extraction_strength", 0.1) for m in models[2:]]
    assert headline([start, retain, *broken]).startswith("No sound unlearned model keeps at least 80 %")
    unmoved = [with_value(start, "forget_extraction_strength", v).labeled(f"m{v}") for v in (0.931, 0.95)]
    assert headline([start, retain, *unmoved]).startswith("No sound unlearned model keeps at least 80 %")
    assert (
        "answers still come out (forget extraction strength 0.931; start model 0.931; retain model 0.171)"
        in (told([start, retain, *unmoved])[0])
    )


def with_measure(evaluation: Evaluation, name: str, value: float, **details: float) -> Evaluation:
    known = Measure(value=value, better="lower", definition=name, source="s", n=48, details=details)
    return replace(evaluation, measures={**evaluation.measures, name: known})


FAULTS: dict[str, tuple[Callable[[Evaluation], Evaluation], str]] = {
    "repetition": (lambda m: with_measure(m, "forget_repetition", 0.57), r"it repeats itself (forget repetition 0.57)"),
    "silence": (
        lambda m: with_measure(m, "retain_repetition", 0.0, wordless_share=0.62),
        "62 % of its generations hold no word",
    ),
    "gibberish": (lambda m: with_measure(m, "forget_fluency", 0.2), "it writes gibberish (forget fluency 0.2)"),
    "over-unlearning": (
        lambda m: with_value(m, "forget_probability", 0.001),
        "it is over-unlearned (forget probability 0.001; retain model 0.0612)",
    ),
    "answers": (
        lambda m: with_value(m, "forget_rouge", 0.8),
        "answers still come out (forget ROUGE 0.8; start model ",
    ),
    "refusal": (
        lambda m: with_measure(m, "forget_refusal_rate", 0.9),
        "it declines to answer (forget refusal rate 0.9), which hides knowledge without removing it",
    ),
}


@pytest.mark.parametrize(("change", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_broken_model_is_never_the_best(
    models: list[Evaluation], change: Callable[[Evaluation], Evaluation], fault: str
) -> None:
    changed = [change(m) if m.label == "NPO" else m for m in models]
    first = next(text for text in told(changed) if text.startswith("NPO "))
    assert first.startswith("NPO does not count as having forgotten: ") and fault in first
    assert headline(changed).startswith("SimNPO comes nearest") and told(changed).index(first) < 3
    row = next(row for row in comparison(changed, start="start", retain="retain").rows if row.label == "NPO")
    assert not any(cell.best for cell in row.cells)
    # With the model alone too: no other is needed for collapse, gibberish or refusals.
    if "start" not in fault and "retain" not in fault:
        assert fault in told([change(make) for make in models if make.label == "NPO"], None, None)[0]


def test_a_model_that_lost_the_retain_set_is_said_to_have(models: list[Evaluation]) -> None:
    one = [model for model in models if model.label in ("start", "GradAscent")]
    assert "GradAscent does not count as having forgotten: it lost what it should keep" in told(one, retain=None)[0]


def test_answers_that_come_out_need_no_start_model_to_be_seen(make_model: Make) -> None:
    (first, *_) = told([make_model("start")], start=None, retain=None)
    assert "answers still come out" in first and "extraction strength 0.931" in first


def test_what_the_start_model_does_too_is_no_fault_of_a_method(models: list[Evaluation]) -> None:
    changed = [with_measure(m, "forget_repetition", 0.5) for m in models]
    assert not any("repeats itself" in text for text in told(changed))
    declining = [with_measure(m, "forget_refusal_rate", 0.9) for m in models]
    assert not any("declines" in text for text in told(declining))  # the retain model declines as often


def test_one_model_alone(make_model: Make) -> None:
    text = "NPO: extraction strength 0.142 on the forget set and 0.793 on the retain set."
    assert told([make_model("NPO")], None, None) == (text,)
    assert told([make_model("start")], "start", None)[0].startswith("start: extraction strength 0.931")


def test_the_next_measure_tells_where_the_first_is_missing(models: list[Evaluation]) -> None:
    def without(evaluation: Evaluation, *names: str) -> Evaluation:
        return replace(evaluation, measures={k: v for k, v in evaluation.measures.items() if not k.endswith(names)})

    assert "probability 0.0488 on the forget set" in headline([without(m, "extraction_strength") for m in models])
    redefined = replace(models[0]["forget_extraction_strength"], definition="another")
    other = replace(models[0], measures={**models[0].measures, "forget_extraction_strength": redefined})
    assert "probability 0.0488 on the forget set" in headline([other, *models[1:]])
    nothing = [without(m, "extraction_strength", "probability", "rouge") for m in models]
    assert headline(nothing).startswith("6 models and 6 measures are shown. The models share no measure")


def test_comparable_models_raise_no_warning(models: list[Evaluation]) -> None:
    assert warned(models) == ()


def test_different_n_is_a_warning_and_stronger_for_forget_quality(models: list[Evaluation], make_model: Make) -> None:
    given = [*models[:-1], make_model("SimNPO", n_forget=20)]
    others, quality = warned(given)
    told = "Different numbers of examples, 48 (start, retain, GradAscent, GradDiff, NPO); 20 (SimNPO): "
    names = "forget probability, forget ROUGE, forget extraction strength, forget truth ratio and MIA Min-K"
    assert others == f"{told}{names}; compare with care."
    assert quality == f"{told}forget quality; a p-value depends on n, so do not compare these."


def test_different_suites_definitions_and_setups_are_warnings(models: list[Evaluation], make_model: Make) -> None:
    (suite,) = warned([*models, make_model("NPO", suite="own").labeled("other")])
    assert (
        suite.startswith("These evaluations come from different suites: tofu (start, retain,")
        and "own (other)" in suite
    )
    npo = make_model("NPO").labeled("other")
    measure = replace(npo["forget_rouge"], definition="ROUGE-1")
    (definition,) = warned([*models, replace(npo, measures={**npo.measures, "forget_rouge": measure})])
    told = "forget ROUGE (1) and forget ROUGE (2)"
    assert definition == f"Not defined alike for all models, so in columns of their own: {told}."
    settings = {**npo.about["settings"], "dtype": "bfloat16"}
    (setup,) = warned([*models, replace(npo, about={**npo.about, "settings": settings})])
    assert setup == (
        "Not evaluated alike, settings.dtype: float32 (start, retain, GradAscent, GradDiff, NPO, SimNPO); bfloat16 "
        "(other). Compare these models with care."
    )


def test_colliding_labels_and_swapped_roles_are_warnings(models: list[Evaluation]) -> None:
    (label,) = warned([*models, models[-1]])
    assert label == "2 evaluations are labeled 'SimNPO'; they are numbered here in the order they came."
    (swapped,) = warned(models, start="retain", retain="start")
    assert swapped.startswith(
        "The start model's extraction strength on the forget set (0.171) is not above the retain model's (0.931)"
    )
