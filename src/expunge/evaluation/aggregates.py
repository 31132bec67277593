"""Aggregates: single numbers made of several measures, with what they are made of in their details."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from expunge.evaluation.bootstrap import harmonic_mean, interval, zero_note
from expunge.evaluation.suite import Derived
from expunge.results.measures import Definition, Direction, Measure

_SOURCE = "open-unlearning, arXiv:2506.12618, as metrics of its study; harmonic means, 0 where a part is 0"
MEMORIZATION = Definition(
    text="harmonic mean of 1 - m, m: extraction strength, exact memorization, paraphrased answers' probability, truth "
    "ratio (prob_mean), all on the forget set",
    source=_SOURCE,
    better="higher",
)
PRIVACY = Definition(
    text="harmonic mean of s_MIA = 1 - min(|AUC - AUC_retain| / AUC_retain, 1) of loss, zlib, Min-K and Min-K++",
    source=_SOURCE,
    better="higher",
)
UTILITY = Definition(
    text="harmonic mean of model utility and fluency, each over the start model's and at most 1",
    source=_SOURCE,
    better="higher",
)
ALL = Definition(text="harmonic mean of agg_memorization, agg_privacy and agg_utility", source=_SOURCE, better="higher")

_KNOWN = (
    "forget_extraction_strength",
    "forget_exact_memorization",
    "forget_paraphrased_probability",
    "forget_truth_ratio_prob_mean",
)
_MEMBERSHIP = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus")
_FLUENCY = "forget_fluency"


def memorization(measures: Mapping[str, Measure]) -> Measure:
    """Mem: 1 where nothing of the forget set is left by any of four measures, 0 where one of them is complete."""
    return _harmonic(MEMORIZATION, {f"1 - {name}": 1 - float(measures[name]) for name in _KNOWN}, measures[_KNOWN[0]].n)


def privacy(measures: Mapping[str, Measure]) -> Measure:
    """Priv: 1 where four membership scores separate forget from holdout as well as the retain model lets them."""
    lacking = [name for name in _MEMBERSHIP if "s_mia" not in measures[name].details]
    if lacking:
        return PRIVACY.missing(
            f"Missing: {', '.join(lacking)} were not compared with a retain model: reference=<its records>."
        )
    return _harmonic(
        PRIVACY, {name: measures[name].details["s_mia"] for name in _MEMBERSHIP}, measures[_MEMBERSHIP[0]].n
    )


def utility(measures: Mapping[str, Measure]) -> Measure:
    """Utility: 1 where nothing of the start model's was lost. Without fluency it is model utility's share alone."""
    shares = {}
    for name in ("model_utility", _FLUENCY):
        found = measures.get(name)
        if found is None or found.value is None:
            continue
        start = found.details.get("start_value")
        if start is None:
            return UTILITY.missing(f"Missing: {name} of the start model: start=<its records>, of the same examples.")
        if start == 0:
            return UTILITY.missing(f"Missing: {name} of the start model is 0, so there is no share of it to keep.")
        shares[name] = min(found.value / start, 1.0)
    note = "" if _FLUENCY in shares else f"Model utility alone, without {_FLUENCY}: gibberish passes unseen."
    return _harmonic(UTILITY, shares, measures["model_utility"].n, note)


def everything(measures: Mapping[str, Measure]) -> Measure:
    """Agg: one number, 1 best; low where any of the three is."""
    parts = {name: measures[name] for name in ("agg_memorization", "agg_privacy", "agg_utility")}
    return _harmonic(
        ALL, {name: float(part) for name, part in parts.items()}, parts["agg_memorization"].n, parts["agg_utility"].note
    )


def _harmonic(definition: Definition, parts: Mapping[str, float], n: int, note: str = "") -> Measure:
    value = float(harmonic_mean(np.array(list(parts.values()), dtype=np.float64)))
    return definition.measure(value, n=n, details=dict(parts), note=" ".join(filter(None, (note, zero_note(parts)))))


AGGREGATES = (
    Derived(name="agg_memorization", parts=_KNOWN, combine=memorization, definition=MEMORIZATION, on_request=True),
    Derived(
        name="agg_privacy",
        parts=_MEMBERSHIP,
        combine=privacy,
        definition=PRIVACY,
        on_request=True,
        needs=("reference",),
    ),
    Derived(
        name="agg_utility",
        parts=("model_utility",),
        combine=utility,
        definition=UTILITY,
        on_request=True,
        needs=("start",),
    ),
    Derived(
        name="agg",
        parts=("agg_memorization", "agg_privacy", "agg_utility"),
        combine=everything,
        definition=ALL,
        on_request=True,
    ),
)
"""Mem, Priv, Utility and Agg of open-unlearning's study, on request."""


def weighted_by_size(name: str, parts: Sequence[str], *, better: Direction) -> Derived:
    """The mean over all examples of several measures, so that a larger task weighs more.

    Args:
        name: of the group's measure.
        parts: measures that are means over their examples.
        better: direction; where it is `near`, the parts' targets are weighted likewise, and so is chance.
    """
    definition = Definition(
        text=f"mean of {', '.join(parts)}, weighted by their numbers of examples",
        source="lm-evaluation-harness",
        better=better,
    )
    return Derived(name=name, parts=tuple(parts), combine=_pooled(definition, parts), definition=definition)


def _pooled(definition: Definition, parts: Sequence[str]) -> Callable[[Mapping[str, Measure]], Measure]:
    def combine(measures: Mapping[str, Measure]) -> Measure:
        groups = [np.array(measures[part].per_example) for part in parts]
        total = sum(map(len, groups))

        def mean(*drawn: np.ndarray) -> np.ndarray:
            return np.asarray(sum(w @ values for w, values in zip(drawn, groups, strict=True)) / total)

        chance = _weighted([measures[part].details.get("chance") for part in parts], groups)
        return definition.measure(
            float(np.concatenate(groups).mean()),
            n=total,
            target=_weighted([measures[part].target for part in parts], groups),
            interval=interval(mean, [len(values) for values in groups]),
            details={part: float(measures[part]) for part in parts} | ({} if chance is None else {"chance": chance}),
        )

    return combine


def _weighted(values: Sequence[float | None], groups: Sequence[np.ndarray]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.average(known, weights=[len(g) for g in groups])) if len(known) == len(values) else None
