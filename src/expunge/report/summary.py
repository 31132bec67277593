"""What a reader should know first: a summary made of the numbers, and what makes numbers hard to compare."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from expunge.report.compared_models import Model
from expunge.report.faults import faulty
from expunge.report.tables import Loss, loss_of, measured
from expunge.report.text import flat, listed, one_line, percent, value_text, words
from expunge.results.measures import Evaluation

KEPT = 0.8
"""Share of the start model's value on the retain set from which a method is said to have kept it."""
STANDING = (
    "Low scores are evidence against recovery of the knowledge by what was tried here; they do not prove erasure."
)

_BROKEN = (
    "A model that keeps little may have lost the forget set by breaking, so read its forget columns with that in mind."
)

_KNOWLEDGE = ("extraction_strength", "probability", "rouge")
"""What a summary goes by, the first that is available."""

_SETUP = (
    "settings.template",
    "settings.dtype",
    "settings.attention",
    "settings.max_length",
    "inputs.tokenizer",
    "inputs.data.",
    "reference.model",
)
"""What should be alike in the evaluations of models that are compared, as beginnings of dotted keys."""


def summary(models: Sequence[Model]) -> tuple[str, ...]:
    """A few sentences on faults, forgetting and keeping, each made of the models' numbers; faults come first."""
    methods = [model for model in models if not model.role]
    by_role = {model.role: model for model in models if model.role}
    start, retain = by_role.get("start"), by_role.get("retain")
    told = methods or list(models)
    found = faulty(models)
    faults = tuple(
        f"{model.name} does not count as having forgotten: {listed(list(found[model.label]))}."
        for model in told
        if model.label in found
    )
    name = _knowledge([*told, *by_role.values()])
    if name is None:
        shown = f"{_count(len(models), 'model')} and {_count(len(measured(models)), 'measure')} are shown."
        why = "The models share no measure of knowledge on both forget and retain set to sum them up by."
        return (*faults, f"{shown} {why}")
    measure = words(name)

    def numbers(model: Model) -> str:
        forget, kept = (value_text(model.evaluation[f"{on}_{name}"]) for on in ("forget", "retain"))
        return f"{measure} {forget} on the forget set and {kept} on the retain set"

    references = tuple(
        f"The {model.role} model has {numbers(model)}." for model in (start, retain) if model and methods
    )
    if len(methods) < 2 or not start or _value(start, f"retain_{name}") <= 0:
        return (*faults, *(f"{model.name}: {numbers(model)}." for model in told), *references)
    goal = _value(retain, f"forget_{name}") if retain else 0.0
    away = {model.label: abs(_value(model, f"forget_{name}") - goal) for model in [*methods, start]}
    shares = {model.label: _value(model, f"retain_{name}") / _value(start, f"retain_{name}") for model in methods}
    keeping = [model for model in methods if shares[model.label] >= KEPT]
    sound = [model for model in keeping if model.label not in found]
    rule = f"at least {percent(KEPT)} of the start model's {measure} on the retain set"
    aim = f"to {'the retain model' if retain else '0'} on the forget set"
    best = min(sound, key=lambda model: away[model.label], default=None)
    kind = "sound unlearned model" if found else "unlearned model"
    if best and away[best.label] < away[start.label]:
        among = f"among the {kind}s that keep {rule} ({len(sound)} of {len(methods)})"
        first = f"{best.name} comes nearest {aim} {among}: {numbers(best)}.{_rivals(best, sound, name, goal)}"
    else:
        first = f"No {kind} keeps {rule} and comes nearer {aim} than the start model is."
    lost = [f"{model.name} ({percent(shares[model.label])})" for model in methods if model not in keeping]
    return (*faults, first, *([f"Less than that is kept by {listed(lost)}. {_BROKEN}"] if lost else []), *references)


def _rivals(best: Model, models: Sequence[Model], name: str, goal: float) -> str:
    """Which others may be as near to the goal on the forget set, for all that their intervals say; empty if none."""

    def away(model: Model) -> Loss:
        return loss_of(replace(model.evaluation[f"forget_{name}"], better="near", target=goal))

    others = [model.name for model in models if model is not best and away(model).low <= away(best).high]
    return f" As far as the intervals say, {listed(others)} may be as near." if others else ""


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _value(model: Model, name: str) -> float:
    value = model.evaluation[name].value
    assert value is not None
    return value


def _knowledge(models: Sequence[Model]) -> str | None:
    """The first measure of knowledge that all these models have on both sets, defined alike."""
    for name in _KNOWLEDGE:
        for on in ("forget", "retain"):
            found = [model.evaluation.get(f"{on}_{name}") for model in models]
            valued = [m for m in found if m is not None and m.value is not None and math.isfinite(m.value)]
            if len(valued) < len(models) or len({measure.definition for measure in valued}) > 1:
                break
        else:
            return name
    return None


def warnings_of(models: Sequence[Model], given: Sequence[Evaluation]) -> tuple[str, ...]:
    """What stands in the way of comparing these models.

    Args:
        models: the models as shown.
        given: the evaluations as they came, with their own labels.
    """
    found = []
    suites = _grouped((model.label, model.evaluation.suite) for model in models)
    if len(suites) > 1:
        found.append(
            f"These evaluations come from different suites: {_spelled(suites)}. Their measures may differ in meaning."
        )
    found += _unlike(models)
    found += _set_up(models)
    labels = [one_line(evaluation.label) for evaluation in given]
    for label in dict.fromkeys(label for label in labels if labels.count(label) > 1):
        found.append(
            f"{labels.count(label)} evaluations are labeled '{label}'; they are numbered here in the order they came."
        )
    by_role = {model.role: model for model in models if model.role}
    if "start" in by_role and "retain" in by_role:
        found += _nothing_to_forget(by_role["start"], by_role["retain"])
    return tuple(found)


def _unlike(models: Sequence[Model]) -> list[str]:
    """Measures that rest on different numbers of examples, or that are defined in several ways."""
    sizes: dict[tuple[str, str], list[str]] = {}
    columns = measured(models)
    for name, held in columns.items():
        valued = [model.label for model in models if model.label in held and held[model.label].value is not None]
        rests = _grouped((label, held[label].n) for label in valued)
        if len(rests) > 1:
            quality = "forget_quality" in name
            advice = "a p-value depends on n, so do not compare these" if quality else "compare with care"
            sizes.setdefault((_spelled(rests), advice), []).append(words(name))
    found = [
        f"Different numbers of examples, {told}: {listed(names)}; {advice}." for (told, advice), names in sizes.items()
    ]
    apart = [words(name) for name in columns if not any(name in model.evaluation for model in models)]
    return [
        *found,
        *([f"Not defined alike for all models, so in columns of their own: {listed(apart)}."] if apart else []),
    ]


def _set_up(models: Sequence[Model]) -> list[str]:
    """What was not alike when these models were evaluated."""
    told: dict[str, list[tuple[str, str]]] = {}
    for model in models:
        for key, value in flat(model.evaluation.about).items():
            if key.startswith(_SETUP):
                told.setdefault(key, []).append((model.label, value))
    groups = {key: _grouped(values) for key, values in told.items()}
    return [
        f"Not evaluated alike, {key}: {_spelled(values)}. Compare these models with care."
        for key, values in groups.items()
        if len(values) > 1
    ]


def _nothing_to_forget(start: Model, retain: Model) -> list[str]:
    name = _knowledge([start, retain])
    if name is None or _value(start, f"forget_{name}") > _value(retain, f"forget_{name}"):
        return []
    knows, never = (value_text(model.evaluation[f"forget_{name}"]) for model in (start, retain))
    return [
        f"The start model's {words(name)} on the forget set ({knows}) is not above the retain model's ({never}): by "
        "this measure there is nothing to forget. Are the two models named the right way round?"
    ]


def _grouped(told: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    """Value, written out -> labels of the models that have it."""
    groups: dict[str, list[str]] = {}
    for label, value in told:
        groups.setdefault(one_line(str(value)), []).append(label)
    return groups


def _spelled(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{value or '(empty)'} ({', '.join(labels)})" for value, labels in groups.items())
