"""What a comparison takes, before anything is measured: models, rows, tokens, and at least so much time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.comparison.plan import MIXTURES, RETAIN, START, ComparisonPlan, Load, models_of, opened_source
from expunge.comparison.trace import Measuring
from expunge.core.duration import lasting
from expunge.evaluation.shown import Shown, shown
from expunge.models.skeleton import skeleton
from expunge.models.speed import speed
from expunge.results.records import Records

OPERATIONS = 2
"""Floating-point operations for each parameter and token of a forward pass."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The models that one run, the start or the retain model adds to a comparison."""

    what: str
    group: str
    """The row of the summary that it goes into."""
    models: int
    """At most."""
    reused: int
    """Of them, as far as is known, whose records are there already."""

    @property
    def made(self) -> int:
        """Models that are run, at most."""
        return self.models - self.reused


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a comparison takes."""

    measured: Sequence[Measured]
    shown: Sequence[Shown]
    """What each model that is run is asked."""
    time: str
    """In words, with what it rests on."""

    @property
    def made(self) -> int:
        """Models that are run, at most."""
        return sum(one.made for one in self.measured)

    @property
    def reused(self) -> int:
        """Models whose records are there already."""
        return sum(one.reused for one in self.measured)


def cost(
    plan: ComparisonPlan,
    *,
    retain: str | Path | Records | None = None,
    tokenizer: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = None,
) -> Cost:
    """Count what `compare` would measure and what it would reuse; arguments as there.

    Weights are read only where there are records on these data that might be of them, and nothing is computed with
    them. What mixtures of two models give is not known beforehand: only the two models themselves are looked up.
    """
    load = plan.loader(dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    measuring = plan.measuring(
        quality=retain is not None, tokenizer=tokenizer, trust_remote_code=trust_remote_code, batch_size=batch_size
    )
    measured, seconds = [], []
    for what, group, sources, models in _sources(plan, retain):
        found = [_seconds(source, measuring, load) for source in sources]
        reused = [one for one in found if one is not None]
        # The start model was measured before it is mixed.
        again = plan.trace == "mixing" and what not in (START, RETAIN)
        measured.append(Measured(what=what, group=group, models=models, reused=len(reused) + again))
        seconds += [one for one in reused if one]
    first = skeleton(plan.folders[0].path, trust_remote_code=trust_remote_code)
    asked = shown(
        measuring.probes,
        plan.corpus,
        measuring.tokenizer,
        first,
        template=measuring.template,
        max_length=measuring.max_length,
    )
    operations = OPERATIONS * sum(p.numel() for p in first.parameters()) * sum(one.tokens for one in asked)
    return Cost(measured=measured, shown=asked, time=_time(sum(one.made for one in measured), seconds, operations))


def _sources(
    plan: ComparisonPlan, retain: str | Path | Records | None
) -> Iterator[tuple[str, str, Sequence[str | Path | Records], int]]:
    """(what, row of the summary, models or records that can be looked up, models in all) in the order of measuring."""
    if retain is not None:
        yield RETAIN, RETAIN, [opened_source(retain)], 1
    yield START, START, [opened_source(plan.start)], 1
    for folder, name, group in plan.named:
        if plan.trace == "mixing":
            yield name, group, [folder.path], MIXTURES
        else:
            models = [path for _, path in models_of(folder)]
            yield name, group, models, len(models)


def _seconds(source: str | Path | Records, measuring: Measuring, load: Load) -> float | None:
    """How long the records that serve for a model took, 0 where they do not say; None: they are still to be made."""
    if isinstance(source, Records):
        return 0.0
    beside = Path(source)
    if not measuring.possible(beside):
        return None
    there = measuring.there(load(source), beside=beside)
    return None if there is None else float(there.results.get("seconds", 0.0))


def _time(models: int, seconds: Sequence[float], operations: float) -> str:
    """How long measuring takes: by records that are there, else at least as long as the arithmetic does.

    Args:
        models: how many are to be measured.
        seconds: that others took.
        operations: of measuring one, answers that it writes left out.
    """
    if not models:
        return "nothing is to be measured"
    if seconds:
        each, basis = sum(seconds) / len(seconds), f"by {len(seconds)} measured before"
    else:
        each, basis = operations / speed(), "at least, by arithmetic alone, without answers that models write"
    return f"{lasting(each)} a model, {lasting(models * each)} in all ({basis})"
