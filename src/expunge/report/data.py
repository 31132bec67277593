"""Everything that a report says, as one object with a JSON form; the page and the other forms are made of it alone.

The JSON is described in docs/report.md. A change that its readers must know of raises `FORMAT`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from expunge.core.checks import ExpungeError, unknown
from expunge.core.manifest import versions
from expunge.core.nested import finite
from expunge.report.buckets import MEANINGS, Bucket, Count, Rule, bucket, change, counts, roles
from expunge.report.compared_models import Model, assign_roles
from expunge.report.facts import Attack, Fact, Said, Tried, joined, measure_of
from expunge.report.paired import SOURCE
from expunge.report.summary import STANDING, summary, warnings_of
from expunge.report.tables import Table, measured, table_of
from expunge.report.text import flat, one_line, value_text
from expunge.report.verdict import Verdict, verdict
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation
from expunge.results.texts import Texts

FORMAT = 1
DIGITS = 6
"""Significant digits of the values of single facts."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report says."""

    title: str
    texts: Texts
    models: tuple[Model, ...]
    """Start model, retain model, then the others."""
    judged: tuple[int, ...]
    """Places of the models that the verdicts are about."""
    baseline: int | None
    """Place of the model that changes of single facts are told against at first."""
    rule: Rule
    facts: tuple[Fact, ...]
    attacks: tuple[Attack, ...]
    attacked: tuple[Attacked, ...]
    buckets: tuple[tuple[Bucket, ...], ...]
    """By model, where each fact belongs."""
    counts: Mapping[int, tuple[Count, ...]]
    """By judged model."""
    verdicts: tuple[Verdict, ...]
    """One per judged model."""
    table: Table
    """All measures, models side by side."""
    summary: tuple[str, ...]
    """The models side by side, by their means."""
    warnings: tuple[str, ...]
    """What stands in the way of comparing them."""
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The documented form; NaN and infinities, which JSON lacks, are null."""
        names = self._row_measures()
        return {
            "format": FORMAT,
            "made_by": f"expunge {versions()['expunge']}",
            "title": self.title,
            "texts": self.texts,
            "standing": STANDING,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "summary": list(self.summary),
            "models": [self._model(i) for i in range(len(self.models))],
            "baseline": self.baseline,
            "rule": {"measure": self.rule.measure, "leak": self.rule.leak, "keep": self.rule.keep},
            "verdicts": [asdict(one) for one in self.verdicts],
            "buckets": [{"model": i, **_count(one)} for i, found in self.counts.items() for one in found],
            "bucket_source": SOURCE,
            "attacks": [_attack(one) for one in self.attacks],
            "row_measures": names,
            "facts": [self._fact(i, names[fact.split]) for i, fact in enumerate(self.facts)],
            "measures": self._measures(),
            "curves": self._curves(),
            "manifest": [{"suite": one.evaluation.suite, **flat(one.evaluation.about)} for one in self.models],
        }

    def _model(self, place: int) -> dict[str, Any]:
        model = self.models[place]
        return {
            "label": model.label,
            "name": model.name,
            "role": model.role or "unlearned",
            "judged": place in self.judged,
            "suite": model.evaluation.suite,
        }

    def _row_measures(self) -> dict[str, list[str]]:
        found: dict[str, dict[str, None]] = {}
        for fact in self.facts:
            found.setdefault(fact.split, {})
            for said in fact.said:
                found[fact.split] |= dict.fromkeys(said.values if said is not None else ())
        return {split: list(names) for split, names in found.items()}

    def _fact(self, place: int, names: Sequence[str]) -> dict[str, Any]:
        fact = self.facts[place]
        return {
            "split": fact.split,
            "number": fact.number,
            "question": fact.question,
            "answer": fact.answer,
            "buckets": [of[place] for of in self.buckets],
            "models": [None if said is None else self._said(said, names) for said in fact.said],
            "attacks": {str(i): _tried(cell) for i, cell in fact.tried.items()},
        }

    def _said(self, said: Said, names: Sequence[str]) -> dict[str, Any]:
        return {
            "generation": said.generation,
            "value": None if self.rule.measure is None else _short(said.value(self.rule.measure)),
            "values": [_short(said.values.get(name)) for name in names],
            "tokens": [[piece, _short(probability)] for piece, probability in said.tokens],
        }

    def _measures(self) -> list[dict[str, Any]]:
        held = measured(self.models)
        found = []
        for place, column in enumerate(self.table.header):
            values = [held[column.name].get(model.label) for model in self.models]
            best = [row.cells[place].best for row in self.table.rows]
            found.append(
                {
                    "name": column.name,
                    "words": column.words,
                    "group": column.group,
                    "better": column.better,
                    "target": column.target,
                    "chance": column.chance,
                    "models": [
                        None
                        if one is None
                        else finite(
                            {
                                "value": one.value,
                                "text": value_text(one),
                                "best": is_best,
                                "interval": one.interval,
                                "n": one.n,
                                "target": one.target,
                                "details": dict(one.details),
                                "note": one.note,
                                "definition": one.definition,
                                "source": one.source,
                            }
                        )
                        for one, is_best in zip(values, best, strict=True)
                    ],
                }
            )
        return found

    def _curves(self) -> list[dict[str, Any]]:
        return [
            {
                "attack": i,
                "model": [list(point) for point in attack.column.leak.curve],
                "control": [list(point) for point in attack.column.control.curve] if attack.column.control else None,
            }
            for i, attack in enumerate(self.attacks)
            if attack.column.leak is not None and attack.column.leak.curve
        ]


def build(
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    start: str | None,
    retain: str | None,
    baseline: str | None,
    attacked: Sequence[Attacked],
    texts: Texts,
    notes: Sequence[str],
    leak: float,
    keep: float,
) -> ReportData:
    """Everything that a report says about these models.

    Args:
        evaluations: the models.
        title: heading.
        start: label of the start model.
        retain: label of the retain model.
        baseline: label of the model that single facts are compared with; None: the start model, else the first.
        attacked: results of attacks on them.
        texts: what is shown of questions, answers and prompts.
        notes: sentences of the caller.
        leak: from which value above the retain model's a fact counts as coming out.
        keep: from which value a fact that should stay counts as kept.

    Raises:
        ExpungeError: a label that no evaluation has, or a threshold outside (0, 1].
    """
    for name, value in (("leak", leak), ("keep", keep)):
        if not 0 < value <= 1:
            raise ExpungeError(f"{name} must be above 0 and at most 1; got {value}.")
    given = assign_roles(evaluations, start=start, retain=retain)
    models, attacks, joint = joined(given, attacked)
    facts = [fact.with_texts(texts) for fact in joint]
    of_start, of_retain = roles(models)
    rule = Rule(measure=measure_of(facts), leak=leak, keep=keep, start=of_start, never=of_retain)
    judged = tuple(i for i, model in enumerate(models) if not model.role)
    by_model = {i: [j for j, attack in enumerate(attacks) if attack.model == i] for i in range(len(models))}
    buckets = tuple(tuple(bucket(fact, i, rule, by_model[i]) for fact in facts) for i in range(len(models)))
    return ReportData(
        title=title,
        texts=texts,
        models=tuple(models),
        judged=judged,
        baseline=_baseline(models, baseline, of_start, judged),
        rule=rule,
        facts=tuple(facts),
        attacks=tuple(attacks),
        attacked=tuple(found.with_texts(texts) for found in attacked),
        buckets=buckets,
        counts={i: counts(facts, buckets[i], i, rule) for i in judged},
        verdicts=tuple(verdict(i, models, facts, buckets[i], attacks, rule) for i in judged),
        table=table_of(models),
        summary=summary(given),
        warnings=warnings_of(given, evaluations),
        notes=tuple(notes),
    )


def _baseline(models: Sequence[Model], label: str | None, start: int | None, judged: Sequence[int]) -> int | None:
    if label is not None:
        place = next((i for i, model in enumerate(models) if model.label == one_line(label)), None)
        if place is None:
            raise unknown("evaluation (for baseline=)", label, [model.label for model in models])
        return place
    return start if start is not None else (judged[0] if len(judged) > 1 else None)


def changes(data: ReportData, model: int) -> list[str]:
    """How each fact changed from the baseline to a model; empty texts without a baseline."""
    if data.baseline is None:
        return [""] * len(data.facts)
    pairs = zip(data.facts, data.buckets[data.baseline], data.buckets[model], strict=True)
    return [change(fact, before, after) for fact, before, after in pairs]


def _count(one: Count) -> dict[str, Any]:
    return {**asdict(one), "meaning": MEANINGS[one.bucket]}


def _attack(one: Attack) -> dict[str, Any]:
    column = one.column
    return finite(  # type: ignore[no-any-return]
        {
            "model": one.model,
            "name": column.name,
            "status": column.status,
            "note": column.note,
            "measure": column.leak.measure if column.leak else None,
            "against": one.against,
            "threshold": column.threshold,
            "recovery": column.mean,
            "interval": column.interval,
            "leaking": len(column.leaking),
            "of": len(column.recovery),
            "seconds": column.seconds,
        }
    )


def _tried(cell: Tried) -> dict[str, Any]:
    return {
        "value": _short(cell.value),
        "control": _short(cell.control),
        "recovery": _short(cell.recovery),
        "leaks": cell.leaks,
        "step": cell.step,
        "prompt": cell.prompt,
        "text": cell.text,
        "control_text": cell.control_text,
    }


def _short(value: float | None) -> float | None:
    """A value with the digits that matter, so that thousands of them stay small; None where it is not finite."""
    return finite(value if value is None else float(f"{value:.{DIGITS}g}"))  # type: ignore[no-any-return]
