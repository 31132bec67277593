"""`expunge compare`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli import preview
from expunge.cli.console import draw_split, heading, say
from expunge.cli.console import table as console_table
from expunge.cli.inputs import LoadingConfig
from expunge.cli.verb import Call, Verb
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.core.format import counted
from expunge.core.output import check_output
from expunge.core.progress import shown

if TYPE_CHECKING:
    from expunge.comparison.cost import Cost


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
    rows: int | None = None
    """Measure on at most so many rows of each set, evenly spaced; null: on all."""
    output: str = "comparison"
    """Folder for the page, the drawing and the numbers."""
    batch_size: int | None = None
    """Rows computed at once; null: as many as fit."""

    def __post_init__(self) -> None:
        require_between("level", self.level, 0, 1)
        for name in ("batch_size", "rows"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)


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
            rows=config.rows,
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
    """Show which models would be measured, on which data, and what that takes; the exit code."""
    from expunge.comparison.cost import cost
    from expunge.comparison.plan import RETAIN, check_source, planned
    from expunge.data.corpus import load_corpus
    from expunge.report.curve_page import FILES

    config, problems = call.config, preview.Problems()
    plan = found = None
    with problems.collected():
        check_output(config.output, overwrite=call.overwrite, names=FILES)
    with problems.collected():
        plan = planned(
            call.positional,
            corpus=load_corpus(**config.data) if config.data else None,
            start=config.start,
            trace=config.trace,
            level=config.level,
            rows=config.rows,
        )
        if config.retain is not None:
            check_source(config.retain, RETAIN, plan)
        found = cost(
            plan,
            retain=config.retain,
            tokenizer=config.tokenizer,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            batch_size=config.batch_size,
        )
    filled: dict[str, Any] = {}
    if plan is not None:
        of_first = plan.folders[0].manifest.results.get("corpus")
        filled = {"start": (plan.start, "the runs"), "data": (of_first, "the first run")}
    preview.show_settings(call.resolved, filled)
    if plan is not None:
        heading("Sets")
        console_table(("set", "rows"), [(name, str(len(plan.corpus[name]))) for name in plan.corpus], numeric=(1,))
        for path in plan.others:
            say(f"left out, as no run of unlearn: {path}")
    if found is not None:
        _show_cost(found, config.trace)
    return problems.concluded()


def _show_cost(found: "Cost", trace: str) -> None:
    """Print how many models are measured, what each is asked, and how long that takes."""
    preview.show_shown(found.shown)
    heading("Work")
    header = ("run", "row of the summary", "models", "reused", "to measure")
    rows = [(one.what, one.group, str(one.models), str(one.reused), str(one.made)) for one in found.measured]
    console_table(header, rows, numeric=(2, 3, 4))
    if trace == "mixing":
        say("models of a run are mixtures, at most so many; what is known of them from before is not counted")
    scored, tokens = (sum(getattr(one, name) for one in found.shown) for name in ("rows", "tokens"))
    most = " at most" if trace == "mixing" else ""
    say(
        f"{counted(found.made, 'model')}{most} to measure and {found.reused} reused; {counted(scored, 'row')} and "
        f"{tokens} tokens for each, {tokens * found.made} tokens in all"
    )
    say(found.time)


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
