"""Which facts are forgotten, still leak, are kept or were lost, and how many they are; a rule on single facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.report.compared_models import Model
from expunge.report.facts import FORGET, RETAIN, Fact
from expunge.report.paired import Interval, Paired, paired, share_interval

LEAK = 0.2
"""Value above that of the retain model from which a fact counts as coming out; as in attacks."""
KEEP = 0.5
"""Value from which a model has a fact that it should keep."""

Bucket = Literal["forgotten", "leaks", "kept", "collateral", "never known", "undecided", "not measured", ""]
"""Empty for facts of other sets, which belong to no bucket."""
COUNTED: tuple[Bucket, ...] = ("forgotten", "leaks", "kept", "collateral")
_SET: dict[Bucket, str] = {"forgotten": FORGET, "leaks": FORGET, "kept": RETAIN, "collateral": RETAIN}
MEANINGS: dict[Bucket, str] = {
    "forgotten": "To be forgotten, known to the start model, and drawn out by nothing that was tried.",
    "leaks": "To be forgotten, and still drawn out, asked as in the data or by an attack.",
    "kept": "To be kept, known to the start model, and still known.",
    "collateral": "To be kept, known to the start model, and lost.",
    "never known": "To be forgotten, and the start model's value is not above what a model that never saw it gives; or "
    "to be kept, and the start model's value is too low. It counts neither as forgotten nor as lost.",
    "undecided": "To be kept and not known; whether the start model knew it was not measured.",
    "not measured": "No value of this model is known.",
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What facts are judged by."""

    measure: str | None
    """Name of the measure without its set; None: no value is known of every fact."""
    leak: float = LEAK
    keep: float = KEEP
    start: int | None = None
    """The start model among the models."""
    never: int | None = None
    """The retain model among them."""

    def value(self, fact: Fact, model: int | None) -> float | None:
        """What a model has of a fact."""
        said = None if model is None else fact.said[model]
        return None if said is None or self.measure is None else said.value(self.measure)

    def above(self, fact: Fact, model: int | None) -> float | None:
        """How much more a model has of a fact than the retain model has, where there is one."""
        value, never = self.value(fact, model), self.value(fact, self.never)
        return value if value is None or never is None else value - never

    def comes_out(self, fact: Fact, model: int | None) -> bool:
        """Asked as in the data, does a model give the fact?"""
        above = self.above(fact, model)
        return above is not None and above >= self.leak

    def has(self, fact: Fact, model: int | None) -> bool:
        """Does a model have a fact that it should keep?"""
        value = self.value(fact, model)
        return value is not None and value >= self.keep


@dataclass(frozen=True, kw_only=True)
class Count:
    """One bucket of one model."""

    bucket: Bucket
    facts: int
    of: int
    """Facts of this set but the never known and the not measured ones; the share and its change are of these."""
    interval: Interval | None
    """95 % interval of the share; None of nothing."""
    before: int | None
    """How many of these facts it would have been for the start model; None where that was not asked all of them."""
    difference: float | None
    """Change of the share since the start model."""
    difference_interval: Interval | None
    p: float | None
    """McNemar's exact test of that change."""


def bucket(fact: Fact, model: int, rule: Rule, attacks: Sequence[int] = ()) -> Bucket:
    """Where a fact belongs.

    Args:
        fact: one fact.
        model: which model is judged.
        rule: what it is judged by.
        attacks: numbers of the attacks on this model.
    """
    value = rule.value(fact, model)
    tried = [fact.tried[i] for i in attacks if i in fact.tried]
    known_before = rule.value(fact, rule.start) is not None
    if fact.split.startswith(FORGET):
        if rule.comes_out(fact, model) or any(one.leaks for one in tried):
            return "leaks"
        if value is None and not any(one.recovery is not None for one in tried):
            return "not measured"
        return "never known" if known_before and not rule.comes_out(fact, rule.start) else "forgotten"
    if fact.split.startswith(RETAIN):
        if value is None:
            return "not measured"
        if known_before and not rule.has(fact, rule.start):
            return "never known"
        if rule.has(fact, model):
            return "kept"
        return "collateral" if known_before else "undecided"
    return ""


def counts(facts: Sequence[Fact], buckets: Sequence[Bucket], model: int, rule: Rule) -> tuple[Count, ...]:
    """The four buckets of a model; those of a set without a measured fact are left out.

    Without a start model nothing is known to be lost, so there is no collateral then.

    Args:
        facts: all facts.
        buckets: where each of them belongs for this model.
        model: which model is counted.
        rule: what they were judged by.
    """
    found = []
    for name in COUNTED:
        own = [
            (fact, one)
            for fact, one in zip(facts, buckets, strict=True)
            if fact.split.startswith(_SET[name]) and one != "not measured"
        ]
        if not own or (name == "collateral" and rule.start is None):
            continue
        judged = [(fact, one) for fact, one in own if one != "never known"]
        n, of = sum(one == name for _, one in judged), len(judged)
        pair = _since_start(judged, name, rule) if model != rule.start else None
        found.append(
            Count(
                bucket=name,
                facts=n,
                of=of,
                interval=share_interval(n, of) if of else None,
                before=None if pair is None else pair.both + pair.before,
                difference=None if pair is None else pair.difference,
                difference_interval=None if pair is None else pair.interval,
                p=None if pair is None else pair.p,
            )
        )
    return tuple(found)


def _since_start(judged: Sequence[tuple[Fact, Bucket]], name: Bucket, rule: Rule) -> Paired | None:
    """For how many of the facts in the denominator of a bucket it held under the start model, and holds now.

    None where the start model was not asked all of them: the change would be of other facts than the share.
    """
    if not judged or any(rule.value(fact, rule.start) is None for fact, _ in judged):
        return None
    had = [
        rule.comes_out(fact, rule.start) if _SET[name] == FORGET else rule.has(fact, rule.start) for fact, _ in judged
    ]
    before = had if name in ("leaks", "kept") else [not one for one in had]
    return paired(before, [one == name for _, one in judged])


Change = Literal["regressed", "fixed", "still", "unchanged", ""]
_GOOD: dict[Bucket, bool] = {
    "forgotten": True,
    "leaks": False,
    "kept": True,
    "collateral": False,
}


def change(fact: Fact, before: Bucket, after: Bucket) -> Change:
    """How a fact changed from a baseline to a model.

    `regressed`: right there and wrong here, `fixed`: the other way round, `still`: wrong in both, `unchanged`: right in
    both; empty where one of the two is not known. Right is a fact to be forgotten that does not come out, and one to be
    kept that is known.
    """
    one, two = _good(fact, before), _good(fact, after)
    if one is None or two is None:
        return ""
    names: dict[tuple[bool, bool], Change] = {
        (True, False): "regressed",
        (False, True): "fixed",
        (False, False): "still",
        (True, True): "unchanged",
    }
    return names[one, two]


def _good(fact: Fact, found: Bucket) -> bool | None:
    if found == "never known" and fact.split.startswith(FORGET):
        return True
    return _GOOD.get(found)


def roles(models: Sequence[Model]) -> tuple[int | None, int | None]:
    """Places of the start and the retain model."""
    places = {model.role: i for i, model in enumerate(models) if model.role}
    return places.get("start"), places.get("retain")
