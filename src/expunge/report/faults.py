"""What keeps a model from being called one that forgot, however low its scores on the forget set are."""

import math
from collections.abc import Iterator, Sequence

from expunge.report.compared_models import Model
from expunge.report.text import percent, value_text, words
from expunge.results.measures import Evaluation, Measure

REPEATS = 0.3
"""Share of repeated 4-grams from which generations count as collapsed, where the start model's are not alike."""
WORDLESS = 0.5
GIBBERISH = 0.5
"""Probability of clean text below which generations count as gibberish."""
BELOW = 10
"""How many times lower than the retain model's a probability of the forget answers is over-unlearned."""
LEFT = 0.5
"""Share of the distance from retain to start model (from 0 and to 1 where they are not known) from which answers still
come out."""
APART = 0.1
"""Least difference of start and retain model for that share to mean anything."""
LOST = 0.5
"""Share of the start model's knowledge of the retain set below which a model lost it."""
REFUSES = 0.5

_TEXT = ("repetition", "fluency")
"""Measures of the text that a model writes: without one, nobody looked whether it still writes any."""
_KNOWLEDGE = ("extraction_strength", "exact_memorization", "verbatim_memorization", "probability", "rouge")


def faults(model: Model, models: Sequence[Model]) -> tuple[str, ...]:
    """Collapse, gibberish, over-unlearning, answers that still come out, and refusals, each with its numbers.

    Args:
        model: an unlearned model.
        models: all that are compared, the start and the retain model among them where they are known.
    """
    start, retain = (next((m for m in models if m.role == role), None) for role in ("start", "retain"))
    found: dict[str, str] = {}
    for name, measure in sorted(model.evaluation.items(), key=_rank):
        if measure.value is None or not math.isfinite(measure.value):
            continue
        before, never = _of(start, name, measure), _of(retain, name, measure)
        for fault in _fault(name, measure, before, never):
            found.setdefault(fault.partition(" (")[0], fault)  # each kind once, with its first measure
    return tuple(found.values())


def measures_of_text(evaluation: Evaluation) -> tuple[str, ...]:
    """The measures that say whether a model repeats itself or writes gibberish; empty where nobody looked."""
    return tuple(
        name
        for name, measure in evaluation.items()
        if name.endswith(_TEXT) and measure.value is not None and math.isfinite(measure.value)
    )


def _rank(named: tuple[str, Measure]) -> int:
    """Measures of knowledge in the order of how much they tell; all others before them."""
    return next((i for i, metric in enumerate(_KNOWLEDGE) if named[0].endswith(metric)), -1)


def faulty(models: Sequence[Model]) -> dict[str, tuple[str, ...]]:
    """By label, the faults of the unlearned models that have some."""
    found = {model.label: faults(model, models) for model in models if not model.role}
    return {label: of for label, of in found.items() if of}


def _fault(name: str, measure: Measure, before: Measure | None, never: Measure | None) -> Iterator[str]:
    metric = name.rpartition(".")[2]
    on_forget = name.startswith(("forget", "rephrased"))
    told = f"{words(name)} {value_text(measure)}"
    if metric.endswith("repetition"):
        if measure >= REPEATS and (before is None or measure > before + APART):
            yield f"it repeats itself ({told})"
        if measure.details.get("wordless_share", 0.0) >= WORDLESS:
            yield f"{percent(measure.details['wordless_share'])} of its generations hold no word"
    elif metric.endswith("fluency") and measure < GIBBERISH:
        yield f"it writes gibberish ({told})"
    elif on_forget and metric.endswith("refusal_rate") and measure >= REFUSES and measure > (never or 0) + APART:
        yield f"it declines to answer ({told}{_beside(None, never)}), which hides knowledge without removing it"
    elif on_forget and metric.endswith(_KNOWLEDGE):
        if metric.endswith("probability") and never is not None and measure * BELOW < never:
            yield f"it is over-unlearned ({told}{_beside(None, never)})"
        goal = 0.0 if never is None else never
        knew = 1.0 if before is None else before
        if knew - goal >= APART and (measure - goal) / (knew - goal) > LEFT:
            yield f"answers still come out ({told}{_beside(before, never)})"
    elif name.startswith("retain") and metric.endswith(_KNOWLEDGE) and before is not None:
        if before >= APART and measure < LOST * before:
            yield f"it lost what it should keep ({told}{_beside(before, None)})"


def _beside(before: Measure | None, never: Measure | None) -> str:
    of = (("start", before), ("retain", never))
    return "".join(f"; {role} model {value_text(measure)}" for role, measure in of if measure is not None)


def _of(model: Model | None, name: str, measure: Measure) -> Measure | None:
    """The same measure of another model."""
    found = model.evaluation.measures.get(name) if model is not None else None
    same = found is not None and found.definition == measure.definition and not math.isnan(found)
    return found if same else None
