"""Places compared over seeds, and what a reader must know along with the numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.checks import ExpungeError, require_positive
from expunge.data.corpus import Corpus
from expunge.experiments._locality.cells import MEASURES, Cell
from expunge.experiments._locality.paired import Paired, paired
from expunge.experiments._locality.protocol import KNOWN, MARGINS, RANDOM, Protocol
from expunge.experiments._locality.teaching import Taught

Values = Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]]
"""Method -> measure -> place -> one value a seed."""
Found = Mapping[str, Mapping[str, Mapping[str, Paired]]]
"""Method -> measure -> place -> that place against the random region, paired by seed."""


def values_of(cells: Sequence[Cell], taught: Sequence[Taught]) -> Values:
    """The measures of all cells. One that is missing in any cell of a method is left out for that method."""
    starts = {start.seed: start for start in taught}
    found: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    for method in dict.fromkeys(cell.method for cell in cells):
        ours = [(cell.place, cell.values(starts[cell.seed])) for cell in cells if cell.method == method]
        places = dict.fromkeys(place for place, _ in ours)
        found[method] = {
            name: {place: tuple(values[name] for at, values in ours if at == place) for place in places}
            for name in MEASURES
            if all(name in values for _, values in ours)
        }
    return found


def against_random(values: Values, margins: Mapping[str, float]) -> Found:
    """Each place against the random region.

    Args:
        values: of all cells, seeds in one order.
        margins: by the measure's first word, `aues`, `mu95` and `resistance`.
    """
    return {
        method: {
            name: {
                place: paired(of[place], of[RANDOM], margin=margins[name.partition("_")[0]])
                for place in of
                if place != RANDOM and RANDOM in of
            }
            for name, of in measures.items()
        }
        for method, measures in values.items()
    }


def margins_with(margins: Mapping[str, float] | None) -> dict[str, float]:
    """Margins of equivalence with some replaced.

    Raises:
        ExpungeError: a margin of something that has none, or one that is not above 0.
    """
    found = {**MARGINS, **(margins or {})}
    if unlike := [name for name in found if name not in MARGINS]:
        raise ExpungeError(f"margins are of {', '.join(MARGINS)}; got one of {unlike[0]}.")
    for name, margin in found.items():
        require_positive(f"margins: {name}", margin)
    return found


def notes_on(
    taught: Sequence[Taught],
    protocol: Protocol,
    measured: Corpus,
    values: Values,
    margins: Mapping[str, float],
    told: Sequence[str],
) -> list[str]:
    """What a reader must know along with the numbers.

    Args:
        taught: the start models.
        protocol: how it was done.
        measured: what models were measured on.
        values: what the cells came to.
        margins: of equivalence.
        told: warnings of all steps, some more than once.
    """
    notes = [*_on_teaching(taught), _on_utility(protocol, measured, values)]
    seeds = len(taught)
    notes.append(
        f"p: two-sided paired t-test over {seeds} seeds, and the exact sign-flip permutation test, which cannot go "
        f"below {2 / 2**seeds:.3g}. The paper's own test is not published."
    )
    least = ", ".join(
        f"{margin:g} for {name if name == 'resistance' else name.upper()}" for name, margin in margins.items()
    )
    notes.append(
        f"Equivalence: two one-sided paired t-tests (TOST); a small p says that the mean difference is within the "
        f"margin, {least}. Neither test small: these seeds decide nothing."
    )
    never = ", ".join(f"{t.never_knew:.3f} to {t.never_knew_relearned:.3f}" for t in taught)
    notes.append(
        "Resistance: the retain model's gain of extraction strength by relearning over the unlearned model's, 1 where"
        f" that one gains no more. The retain model goes, seed by seed, from {never}."
    )
    return [*notes, *_once(told)]


def _on_teaching(taught: Sequence[Taught]) -> list[str]:
    strengths = ", ".join(f"{t.strength:.3f}" for t in taught)
    retained = ", ".join(f"{t.retain_strength:.3f}" for t in taught)
    notes = [
        f"Extraction strength of the forget set after teaching it into the region, seed by seed: {strengths}; all "
        f"parameters reach {taught[0].full_strength:.3f}. Of the retain set: {retained}, {taught[0].retain_before:.3f} "
        "before."
    ]
    weak = [t.seed for t in taught if t.strength < KNOWN * t.full_strength]
    if weak:
        notes.append(f"Seeds {weak} stayed below {KNOWN} of that: their start models know the forget set in part only.")
    wrong = [t.seed for t in taught if not (t.region_holds_it and t.outside_untouched)]
    notes.append(
        f"Reverse check FAILED for seeds {wrong}: weights outside the region changed."
        if wrong
        else "Reverse check: with the region put back each start model is the retain model bit for bit, with the "
        "random region put back it is unchanged."
    )
    return notes


def _on_utility(protocol: Protocol, measured: Corpus, values: Values) -> str:
    if not protocol.quality:
        return "MU95 was left out, as forget quality and model utility were not measured: quality=true"
    if any("mu95_best" not in of for of in values.values()):
        return (
            "MU95 is not available: forget quality needs paraphrased_answer and perturbed_answer on the forget set, "
            "model utility on the retain set. Without them quality=false saves the time of trying."
        )
    used = [split for split in ("retain_perturbed", "real_authors", "world_facts", "world") if split in measured]
    used = used if "retain_perturbed" in used else ["retain", *used]
    sizes = ", ".join(f"{split} ({len(measured[split])})" for split in used)
    return (
        "MU95: model utility is the harmonic mean of probability, ROUGE-L recall and truth ratio on the questions of "
        f"{sizes}; forget quality compares with the retain model on {len(measured['forget'])} questions."
    )


def _once(told: Sequence[str]) -> list[str]:
    """Each warning once; those that differ by their numbers alone are one."""
    alike: dict[str, list[str]] = {}
    for text in told:
        alike.setdefault(re.sub(r"[\d.]+", "#", text), []).append(text)
    return [f"Warned {len(texts)} times: {texts[0]}" for texts in alike.values()]


def as_json(found: Found) -> dict[str, Any]:
    """Plain data."""
    return {
        method: {name: {place: vars(one) for place, one in of.items()} for name, of in measures.items()}
        for method, measures in found.items()
    }
