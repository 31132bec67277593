"""`expunge erase`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.console import heading, say, table
from expunge.cli.inputs import corpus_of, source_settings, template_of
from expunge.cli.preview import Problems
from expunge.cli.verb import Call, Verb
from expunge.core.checks import require_at_least, require_between
from expunge.core.duration import lasting, seconds
from expunge.core.format import counted, in_units, number
from expunge.core.progress import shown
from expunge.data.data_config import DataConfig
from expunge.erase.candidates import MULTIPLES, USUAL, chosen
from expunge.results.attacked import check_not_nothing

if TYPE_CHECKING:
    from expunge.data.corpus import Corpus
    from expunge.erase.erase import Erased
    from expunge.erase.plan import Trial


@dataclass(frozen=True, kw_only=True)
class EraseConfig(DataConfig):
    """What is erased from what, and how long it may take."""

    model: str
    """Start model: a folder or a hub id."""
    output: str
    """Folder for all that comes of it: `model` with its erasure record, records, `report.html`, `trials.json`."""
    request: str = "erasure"
    """Name of the request in your files, such as `REQ-17`; no personal data."""
    ground: str | None = None
    """Legal ground of the request."""
    control: str | None = None
    """Retain model, or another model that never saw the rows; null: untaught facts stand for one, and the record gives
    no verdict."""
    candidates: tuple[str, ...] = USUAL
    """Ways of unlearning that are tried, in this order. `undo` only where it is named: it loses what stands in neither
    set."""
    adapter: str | None = None
    """Train through it, such as `lora`; null: all weights."""
    tries: int = 3
    """Most learning rates tried for each candidate."""
    budget: str = "1h"
    """Time after which no further trial or attack begins, such as `90s`, `30m` or `2h`; half of it is for trials."""
    rows: int = 48
    """Rows of each set that a trial is measured on."""
    neighbors: int = 0
    """Retain rows that the start model makes, marked as such, in addition to yours."""
    attacks: tuple[str, ...] | None = None
    """Attacks on the best models; null: the default ones of `expunge attack`, which the default policy asks for."""
    policy: str = "default"
    """What the verdict asks for: `default`, or a YAML file."""
    seed: int = 0
    """Random seed of everything that is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        seconds(self.budget, "budget")
        require_between("tries", self.tries, 1, len(MULTIPLES))
        require_at_least("rows", self.rows, 2)
        require_at_least("neighbors", self.neighbors, 0)
        check_not_nothing(self.control)
        chosen(self.candidates)


def erase(call: Call[EraseConfig]) -> int:
    """Take rows out of a model: measure, tune, attack, keep the best, and write report and erasure record.

    It says first what it will do. The same command goes on where it was stopped.
    """
    from expunge.erase.erase import check_sets
    from expunge.erase.looked_at import findings

    config = call.config
    problems = Problems()
    corpus: Corpus | None = None
    with problems.collected():
        corpus = corpus_of(config, call.resolved.extra)
        _say_data(corpus)
        check_sets(corpus, config.neighbors)
        _say_plan(config, corpus)
    if call.dry_run:
        return problems.concluded(findings=0 if corpus is None else len(findings(corpus)))
    if problems.found or corpus is None:
        return problems.concluded()
    from expunge.attack.attack import DEFAULT
    from expunge.erase.erase import erase as stage

    with shown() as report:
        done = stage(
            config.model,
            corpus,
            config.output,
            request=config.request,
            ground=config.ground,
            control=config.control,
            candidates=config.candidates,
            adapter=config.adapter,
            tries=config.tries,
            budget=seconds(config.budget, "budget"),
            rows=config.rows,
            neighbors=config.neighbors,
            attacks=config.attacks or DEFAULT,
            policy=config.policy,
            template=template_of(config),
            max_length=config.max_length,
            seed=config.seed,
            overwrite=call.overwrite,
            progress=report,
        )
    _conclude(config, done)
    return 0


def _say_data(corpus: "Corpus") -> None:
    from expunge.erase.looked_at import findings

    heading("Data")
    say(", ".join(f"{name}: {counted(len(corpus[name]), 'row')}" for name in corpus))
    for finding in findings(corpus):
        say(f"- {finding}")


def _say_plan(config: EraseConfig, corpus: "Corpus") -> None:
    from expunge.attack.attack import DEFAULT
    from expunge.erase.plan import trials
    from expunge.models.load import load_tokenizer
    from expunge.models.skeleton import skeleton

    heading("What will be done")
    say(f"1. Measure what {config.model} knows of the rows; if it does not know them, stop.")
    say("2. Try these, at one learning rate after the other, until one forgets like a model that never knew:")
    with_retain = corpus if "retain" in corpus else None
    if with_retain is not None:
        planned = trials(
            skeleton(config.model),
            load_tokenizer(config.model),
            with_retain,
            chosen(config.candidates),
            tries=config.tries,
            adapter=config.adapter,
            template=template_of(config),
            max_length=config.max_length,
            seed=config.seed,
        )
        table(
            ("candidate", "rates", "steps", "tokens", "a trial, at least", "memory, roughly"),
            [_planned(one) for one in planned],
            numeric=range(2, 6),
        )
    say(f"3. Attack the best of each, the nearest first: {', '.join(config.attacks or DEFAULT)}.")
    say(f"4. Keep the best under the policy {config.policy}; write model, report and record into {config.output}.")
    say(f"No trial begins after {number(seconds(config.budget, 'budget') / 120)} minutes, no attack after twice that.")


def _planned(one: "Trial") -> tuple[str, ...]:
    rates = ", ".join(f"{rate:g}" for rate in one.rates)
    return one.name, rates, str(one.steps), str(one.tokens), lasting(one.seconds), in_units(one.memory)


def _conclude(config: EraseConfig, done: "Erased") -> None:
    if done.trials:
        heading("Trials")
        header = ("candidate", "rate", "forget ES", "forget P", "repetition", "retain ES", "steps", "seconds")
        table(header, [_row(row) for row in done.trials], numeric=range(1, 8))
    heading(f"{config.request}: {done.verdict}")
    for reason in done.reasons:
        say(f"- {reason}")
    for fault in done.faults:
        if not any(fault in reason for reason in done.reasons):  # under a policy that allows it
            say(f"note: {fault}")
    if done.chosen is not None:
        say(f"kept: {done.chosen}")
        say(f"model and record: {done.model}")
        say(f"report: {Path(config.output) / 'report.html'}")
        say(f"next: expunge verify {done.model}")


def _row(row: Any) -> tuple[str, ...]:
    from expunge.erase.trials import FORGET, PROBABILITY, REPETITION, RETAIN

    if "failed" in row:
        return row["arm"], f"{row['rate']:g}", *("-",) * 5, f"{row['seconds']:.0f}"
    measured = (number(row[name]) for name in (FORGET, PROBABILITY, REPETITION, RETAIN))
    return row["arm"], f"{row['rate']:g}", *measured, str(row["steps"]), f"{row['seconds']:.0f}"


VERB = Verb(
    name="erase",
    config=EraseConfig,
    run=erase,
    extra_settings=source_settings,
    flags=("dry_run", "overwrite"),
    note="Example: expunge erase model=my-model forget=forget.jsonl retain=retain.jsonl control=my-retain-model "
    "request=REQ-17 output=erased",
)
