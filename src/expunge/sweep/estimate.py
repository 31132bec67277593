"""What a study takes, before anything is trained: trials, steps, tokens, memory, and at least so much time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from expunge.core.duration import lasting
from expunge.core.json_text import read_object
from expunge.models.load import bits_under
from expunge.models.speed import least_seconds
from expunge.results.studies import TRIAL, finished
from expunge.sweep.samplers import Source
from expunge.sweep.sweep import Setup
from expunge.sweep.trial import Model
from expunge.training.memory import Conditions, run_memory, work
from expunge.training.run import uses_bf16


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a study takes."""

    trials: int | None
    planned: int
    """Trials that the other numbers are means over."""
    steps: float
    """Of a trial."""
    tokens: float
    """Of a trial, that it trains on."""
    time: str
    """In words, with what it rests on."""
    memory: Mapping[str, float]
    """Of the largest planned trial."""


def estimate(setup: Setup, points: Source, model: Model, folder: Path, *, most: int) -> Estimate:
    """Plan the first trials of a study.

    Args:
        setup: the study, checked.
        points: where its points come from.
        model: the start model, of which shapes alone are read.
        folder: of the study, where finished trials say how long one takes.
        most: how many trials are planned.
    """
    steps, tokens, memory, bf16 = [], [], [], True
    for point in setup.sample(points, most):
        plan = setup.plan(point, model).dated(setup.tokenizer, None)
        rows = plan.rows(setup.corpus, setup.tokenizer, model)
        size = work(rows, plan.training)
        steps.append(size.steps)
        tokens.append(size.tokens_an_epoch * plan.epochs)
        under = Conditions(bits=bits_under(setup.source), autocast=uses_bf16(model, plan.training))
        bf16 = bf16 and under.autocast
        memory.append(run_memory(model, plan, rows, under))  # type: ignore[arg-type]
    mean = sum(tokens) / len(tokens)
    trials = setup.trials(points)
    return Estimate(
        trials=trials,
        planned=len(steps),
        steps=sum(steps) / len(steps),
        tokens=mean,
        time=time_of(folder, trials, least_seconds(model, mean, bf16=bf16)),
        memory=max(memory, key=lambda parts: sum(parts.values())),
    )


def time_of(folder: Path, trials: int | None, least: float) -> str:
    """How long trials take: by those that are finished, else at least as long as their arithmetic does.

    Args:
        folder: of the study.
        trials: how many there are to be.
        least: seconds that the arithmetic of one trial takes.
    """
    seconds = [read_object(path / TRIAL)["seconds"] for _, path in finished(folder)]
    if seconds:
        each, basis = sum(seconds) / len(seconds), f"by {len(seconds)} finished"
    else:
        each, basis = least, "at least, by arithmetic alone: the first trial will tell"
    left = "" if trials is None else f", {lasting(each * max(0, trials - len(seconds)))} in all for one worker"
    return f"{lasting(each)} a trial{left} ({basis})"
