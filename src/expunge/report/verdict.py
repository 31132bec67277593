"""What came of it, in plain words with its conditions, counted by facts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.core.catalogue import names
from expunge.core.format import counted
from expunge.report.buckets import Bucket, Rule
from expunge.report.compared_models import Model
from expunge.report.facts import FORGET, RETAIN, Attack, Fact, set_of
from expunge.report.faults import faults, measures_of_text
from expunge.report.text import listed, number, words
from expunge.results.attacked import PLAIN

NAMED = 3
"""Attacks that a sentence names; the others are counted."""


@dataclass(frozen=True)
class Verdict:
    """One model's verdict."""

    model: int
    headline: str
    """How many facts no longer come out, and how many do."""
    sentences: tuple[str, ...]
    """Conditions and the rest, a sentence or two each."""


def verdict(
    model: int,
    models: Sequence[Model],
    facts: Sequence[Fact],
    buckets: Sequence[Bucket],
    attacks: Sequence[Attack],
    rule: Rule,
) -> Verdict:
    """The verdict on one model.

    Args:
        model: which one.
        models: all models.
        facts: all facts.
        buckets: where each fact belongs for this model.
        attacks: all attacks on any model.
        rule: what facts were judged by.
    """
    own = [i for i, attack in enumerate(attacks) if attack.model == model]
    ran = [i for i in own if attacks[i].column.status == "ran"]
    tally = Counter(
        (FORGET if fact.split.startswith(FORGET) else RETAIN, bucket)
        for fact, bucket in zip(facts, buckets, strict=True)
        if fact.split.startswith((FORGET, RETAIN))
    )
    found = faults(models[model], models)
    sentences = [
        *_other_sets(model, models),
        *(f"This model does not count as having forgotten: {fault}." for fault in found),
        *_leaking(model, facts, buckets, attacks, ran, rule),
        *_apart(tally, rule),
        *_kept(tally, rule),
        _compared(models, [attacks[i] for i in ran], rule),
        *_unseen(models[model]),
        _not_tried(attacks, own),
        *_rule(rule),
    ]
    return Verdict(
        model,
        f"{_broken(found)}{_headline(tally, bool(ran), partly=bool(_partly(model, facts, attacks, ran)))}",
        tuple(sentences),
    )


def _broken(faults: Sequence[str]) -> str:
    """What stands before the counts where a model is no good, however little it gives away."""
    short = [fault.partition(" (")[0] for fault in faults if not fault.startswith("answers still come out")]
    return f"{listed(short)[0].upper()}{listed(short)[1:]}: this does not count as forgetting. " if short else ""


def _unseen(model: Model) -> list[str]:
    """That nobody looked at what an evaluated model writes."""
    if not model.evaluation.measures or measures_of_text(model.evaluation):
        return []
    return ["Not looked at: whether it still writes text; no measure of repetition or fluency is among its measures."]


def _other_sets(model: int, models: Sequence[Model]) -> list[str]:
    """That other models were asked another forget set, so that their counts are of other facts."""
    own = set_of(models[model], FORGET)
    others = [one.label for one in models if set_of(one, FORGET) not in (None, own)]
    if own is None or not others:
        return []
    return [
        f"{listed(others)} {'was' if len(others) == 1 else 'were'} asked another forget set: do not compare counts."
    ]


def _headline(tally: Counter[tuple[str, Bucket]], attacked: bool, *, partly: bool) -> str:
    gone, out = tally[FORGET, "forgotten"], tally[FORGET, "leaks"]
    if not gone + out:
        return "No fact of the forget set can be judged."
    tried = "can no longer be drawn out by anything tried"
    if partly:
        tried = "can no longer be drawn out by what was tried on each"
    if not attacked:
        tried = f"no longer {'comes' if gone == 1 else 'come'} out when asked as in the data"
    if not gone:
        return (
            "The one fact to be forgotten still leaks." if out == 1 else f"All {out} facts to be forgotten still leak."
        )
    of = f"Of {counted(gone + out, 'fact')} to be forgotten, {gone} {tried}."
    rest = "none leaks" if not out else f"{out} still {'leaks' if out == 1 else 'leak'}"
    return f"{of} {rest[0].upper()}{rest[1:]}."


def _leaking(
    model: int,
    facts: Sequence[Fact],
    buckets: Sequence[Bucket],
    attacks: Sequence[Attack],
    ran: Sequence[int],
    rule: Rule,
) -> list[str]:
    """When the facts that leak do so."""
    leaking = [fact for fact, bucket in zip(facts, buckets, strict=True) if bucket == "leaks"]
    if not leaking:
        return []
    plain = sum(rule.comes_out(fact, model) for fact in leaking)
    tried = [i for i in ran if attacks[i].column.name != PLAIN or not plain]  # which is asked as in the data, too
    under = Counter(i for fact in leaking for i in tried if i in fact.tried and fact.tried[i].leaks)
    told = [f"{plain} when asked as in the data"] if plain else []
    most = under.most_common(NAMED)
    told += [f"{n} under {attacks[i].column.name}" for i, n in most]
    more = f"; {counted(len(under) - NAMED, 'other attack')} draw facts out, too" if len(under) > NAMED else ""
    passed = [sentence for i in ran if (sentence := attacks[i].column.passed)]
    return [f"They leak: {listed(told)}{more}.", *_partly(model, facts, attacks, ran), *passed]


def _partly(model: int, facts: Sequence[Fact], attacks: Sequence[Attack], ran: Sequence[int]) -> list[str]:
    """Which attacks drew facts of this model out and were not tried on others."""
    own = [fact for fact in facts if fact.split.startswith(FORGET)]
    n = sum(fact.said[model] is not None or any(i in fact.tried for i in ran) for fact in own)
    return [sentence for i in ran if (sentence := attacks[i].column.untested(n))]


def _apart(tally: Counter[tuple[str, Bucket]], rule: Rule) -> list[str]:
    found = []
    if n := tally[FORGET, "never known"]:
        more = "1 more fact" if n == 1 else f"{n} more facts"
        guessed = "" if rule.never is None else " above what a model that never saw it gives"
        what = f"Of {more} of the forget set the start model gave nothing{guessed}"
        found.append(f"{what}; {'it counts' if n == 1 else 'they count'} as neither.")
    if rule.start is None:
        found.append("No start model was evaluated, so some of these facts may never have been known.")
    return found


def _kept(tally: Counter[tuple[str, Bucket]], rule: Rule) -> list[str]:
    kept, lost, never = (tally[RETAIN, name] for name in ("kept", "collateral", "never known"))
    undecided = tally[RETAIN, "undecided"]
    if not kept + lost + undecided:
        return ["What should stay was not measured fact by fact, or the start model had none of it."]
    if rule.start is None or undecided:
        told = f"Of {counted(kept + lost + undecided, 'fact')} that should stay, the model has {kept}"
        known = f"the start model had {lost} of the others; " if lost else ""
        rest = "the rest" if lost else "the others"
        return [f"{told}; {known}whether the start model had {rest} was not measured." if undecided else f"{told}."]
    apart = f" It did not have {never} more." if never else ""
    return [
        f"{_percent(kept, kept + lost)} of what should stay is kept: {kept} of {counted(kept + lost, 'fact')} that the "
        f"start model had.{apart}"
    ]


def _percent(part: int, of: int) -> str:
    """A share without more digits than it has, and never 100 % or 0 % where something is missing or left."""
    share = 100 * part / of
    if 0 < part < of:
        share = min(99.0, max(1.0, share)) if of < 1000 else share
    return f"{share:.0f} %" if of < 1000 or part in (0, of) else f"{min(99.9, max(0.1, share)):.1f} %"


def _compared(models: Sequence[Model], ran: Sequence[Attack], rule: Rule) -> str:
    against = list(dict.fromkeys(attack.against or "nothing" for attack in ran))
    attacks = f" Attacks are compared with {listed([_the(one) for one in against])}." if against else ""
    if rule.never is None:
        return (
            "Compared with nothing: no retain model was evaluated, so a fact that any model could guess counts as "
            f"leaking.{attacks}"
        )
    return f"Compared with a model that never knew: {models[rule.never].label}.{attacks}"


def _the(control: str) -> str:
    return control if control in ("nothing", "untaught facts") else f"the {control}"


def _not_tried(attacks: Sequence[Attack], own: Sequence[int]) -> str:
    """Which attacks were left out, or gave no verdict, with the reason."""
    columns = [attacks[i].column for i in own]
    tried = {column.name.partition(".")[0] for column in columns if column.status == "ran"}
    failed = [f"{c.name} ({c.note or c.status})" for c in columns if c.status != "ran"]
    if not tried:
        alone = "the facts were only asked for as in the data."
        if not failed:
            return f"No attack was tried: {alone}"
        return f"No attack gave a verdict, so {alone} Without a verdict: {listed(failed)}."
    never = [name for name in names("attacks") if name not in {c.name.partition(".")[0] for c in columns}]
    missing = [*failed, *never]
    return f"Not tried: {listed(missing)}." if missing else "Every known attack was tried in some form."


def _rule(rule: Rule) -> list[str]:
    if rule.measure is None:
        return []
    above = "above the retain model's value" if rule.never is not None else "on"
    return [
        f"A fact leaks from {words(rule.measure)} {number(rule.leak)} {above}, or from the threshold of an attack "
        f"above its control; a fact is kept from {words(rule.measure)} {number(rule.keep)} on."
    ]
