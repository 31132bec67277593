"""`expunge report`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from expunge.cli.console import draw_split, say
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs.mask import labels
from expunge.core.checks import ExpungeError

if TYPE_CHECKING:
    from expunge.masks.mask_fingerprint import Fingerprint
    from expunge.results.attacked import Attacked


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report is called, and where it goes."""

    output: str | None = None
    """File to write; null: `report.html`, `report.md`, `report.json` or `report.csv`."""
    format: Literal["html", "markdown", "json", "csv"] = "html"
    """A page to read, Markdown with verdicts and tables, all data as JSON, or one row per fact and model as CSV."""
    title: str = "Unlearning report"
    """Heading of the report."""
    start: str | None = None
    """Label of the evaluation of the start model (before unlearning), which is marked as such; null: the one whose
    weights the runs began from, where it was evaluated."""
    retain: str | None = None
    """Label of the evaluation of the retain model; null: the one that the runs were compared with."""
    baseline: str | None = None
    """Label of the evaluation that single facts are compared with at first; null: the start model's, else the first."""
    leak: float = 0.2
    """Value above the retain model's, in (0, 1], from which a fact counts as coming out when it is asked as in the
    data. Attacks have thresholds of their own."""
    keep: float = 0.5
    """Value, in (0, 1], from which a fact that should stay counts as kept."""
    texts: Literal["keep", "hash", "drop"] = "keep"
    """What is shown of questions, answers and prompts: the texts, their SHA-256, or nothing."""
    masks: tuple[str, ...] = ()
    """Files of further masks to draw where they are, as `a.safetensors,b.safetensors`; those that the runs were trained
    with are drawn by themselves."""
    attacked: tuple[str, ...] = ()
    """Further results of `expunge attack`, as `a,b`; those beside the evaluations are shown by themselves."""


def report(call: Call[ReportConfig]) -> int:
    """Compare evaluated models: a table here, and a report as one file."""
    from expunge.report.baselines import beside
    from expunge.report.compared_models import distinct, gather
    from expunge.report.html import ENDINGS, histories_in
    from expunge.report.html import report as write
    from expunge.report.tables import comparison, terminal
    from expunge.results.studies import models_of

    if not call.positional:
        raise ExpungeError("name the evaluated models: expunge report runs/npo runs/simnpo output=report.html")
    config = call.config
    models = [str(model) for path in call.positional for model in models_of(Path(path))]
    gathered = distinct(gather(models))
    more = beside(models, gathered, start=config.start, retain=config.retain)
    evaluations = (*gathered, *more.evaluations)
    path = write(
        evaluations,
        config.output or f"report.{ENDINGS[config.format]}",
        format=config.format,
        baseline=config.baseline,
        leak=config.leak,
        keep=config.keep,
        histories=histories_in(call.positional),
        title=config.title,
        start=more.start,
        retain=more.retain,
        notes=more.notes,
        overwrite=call.overwrite,
        texts=config.texts,
        masks=_fingerprints(config.masks),
        attacked=_attacked(models, config.attacked),
    )
    draw_split(terminal(comparison(evaluations, start=more.start, retain=more.retain)))
    for note in more.notes:
        say(note)
    say(f"report: {path}")
    return 0


def _attacked(runs: Sequence[str], further: Sequence[str]) -> "list[Attacked]":
    """Results of attacks that lie beside the evaluations of these runs, and those that were named."""
    from expunge.results.attacked import FILE, load_attacked
    from expunge.results.places import attacked_beside

    beside = [file for run in runs for file in attacked_beside(Path(run))]
    named = [Path(path) / FILE if Path(path).is_dir() else Path(path) for path in further]
    return [load_attacked(path) for path in dict.fromkeys(path.resolve() for path in [*beside, *named])]


def _fingerprints(paths: Sequence[str]) -> "list[Fingerprint]":
    if not paths:
        return []
    from expunge.masks.mask import Mask
    from expunge.masks.mask_fingerprint import fingerprint

    return [fingerprint(Mask.load(path), label) for label, path in zip(labels(paths), paths, strict=True)]


VERB = Verb(
    name="report",
    config=ReportConfig,
    run=report,
    flags=("overwrite",),
    positional="RUN...",
    note="RUN is a run folder with evaluated records, a folder of records, an evaluation.json, or the folder of a "
    "sweep, which stands for the best candidates of its trials.",
)
