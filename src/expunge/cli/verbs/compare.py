"""`expunge compare`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.cli import preview
from expunge.cli.console import draw_split, heading, say
from expunge.cli.console import table as console_table
from expunge.cli.inputs import LoadingConfig, tokenizer_of
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.core.output import check_output
from expunge.core.progress import shown


@dataclass(frozen=True, kw_only=True)
class CompareConfig(LoadingConfig):
    """How runs are compared, and where the result goes."""

    start: str | None = None
    """Start model (before unlearning): its folder or id, or records of it; null: the model that the runs began from."""
    retain: str | None = None
    """Retain model (never trained on the forget set): its folder or id, or records of it."""
    trace: Literal["checkpoints", "mixing"] = "checkpoints"
    """Points of a curve: the checkpoints that a run kept, or mixtures of start and unlearned model."""
    level: float = 0.95
    """Share of the start model's retain strength that calibration keeps, with trace=mixing."""
    data: dict[str, Any] = field(default_factory=dict)
    """What is measured, as for unlearn: `data.forget=f.jsonl data.retain=r.jsonl`, `data.source=tofu`; null: what the
    first run was made on."""
    output: str = "comparison"
    """Folder for the page, the drawing and the numbers."""
    batch_size: int | None = None
    """Rows computed at once; null: as many as fit."""

    def __post_init__(self) -> None:
        require_between("level", self.level, 0, 1)
        if self.batch_size is not None:
            require_at_least("batch_size", self.batch_size, 1)


def compare(call: Call[CompareConfig]) -> int:
    """Trace forgetting against retention along runs: curves, AUES, MU95, calibration, Pareto front."""
    config = call.config
    if not call.positional:
        raise ExpungeError("name the runs to compare: expunge compare runs/npo runs/simnpo --retain runs/retain")
    if call.dry_run:
        return dry_run(call)
    from expunge.report.curve_page import FILES

    check_output(config.output, overwrite=call.overwrite, names=FILES)
    from expunge.comparison.compare import compare as stage
    from expunge.data.corpus import load_corpus
    from expunge.report.curve_page import table, write
    from expunge.report.tables import terminal

    with shown() as report:
        found = stage(
            call.positional,
            corpus=load_corpus(**config.data) if config.data else None,
            start=config.start,
            retain=config.retain,
            trace=config.trace,
            level=config.level,
            tokenizer=config.tokenizer,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            batch_size=config.batch_size,
            progress=report,
        )
    draw_split(terminal(table(found), intervals=True))
    front = "; ".join(run if run == point else f"{run}, {point}" for run, point in found.front)
    say(f"Pareto front: {front}")
    for note in found.notes:
        say(note)
    page, *_ = write(found, config.output)
    say(f"\npage: {page}; figure and numbers next to it")
    return 0


def dry_run(call: Call[CompareConfig]) -> int:
    """Show which models would be measured, on which data; the exit code."""
    from expunge.comparison.compare import RETAIN, check_source, planned
    from expunge.data.corpus import load_corpus
    from expunge.report.curve_page import FILES

    config, problems = call.config, preview.Problems()
    plan = corpus = None
    with problems.collected():
        check_output(config.output, overwrite=call.overwrite, names=FILES)
    with problems.collected():
        corpus = load_corpus(**config.data) if config.data else None
        plan = planned(call.positional, corpus=corpus, start=config.start, trace=config.trace, level=config.level)
    if plan is not None:
        with problems.collected():
            tokenizer_of(str(plan.folders[0].path), config)
        if config.retain is not None:
            with problems.collected():
                check_source(config.retain, RETAIN, plan)
    filled: dict[str, Any] = {}
    if plan is not None:
        filled = {"start": (plan.start, "the runs"), "data": (dict(plan.corpus.origin), "the first run")}
    preview.show_settings(call.resolved, filled)
    if plan is not None:
        heading("Runs")
        rows = [(run, group, str(n)) for run, group, n in plan.rows]
        console_table(("run", "row of the summary", f"{config.trace}: models measured, at most"), rows, numeric=(2,))
        for path in plan.others:
            say(f"left out, as no run of unlearn: {path}")
        heading("Data")
        console_table(("set", "rows"), [(name, str(len(plan.corpus[name]))) for name in plan.corpus], numeric=(1,))
    return problems.concluded()


VERB = Verb(
    name="compare",
    replaces_output=False,
    config=CompareConfig,
    run=compare,
    flags=("dry_run", "overwrite"),
    positional="RUN...",
    note="RUN is a run of unlearn that kept its checkpoints (keep_checkpoints=0); with trace=mixing any run; the "
    "folder of a sweep stands for its runs. Runs that differ by their seed become "
    "one row.\n\nExample: expunge compare runs/npo runs/simnpo --retain runs/retain",
)
