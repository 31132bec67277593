"""`expunge report`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from expunge.cli.console import draw_split, heading, say
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs.mask import labels
from expunge.core.checks import ExpungeError

if TYPE_CHECKING:
    from expunge.masks.mask_fingerprint import Fingerprint
    from expunge.report.compared_models import Model
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
    """Start model (before unlearning), which is marked as such: its records, its run folder, or the label of one that
    is named; null: the one whose weights the runs began from, where it was evaluated."""
    retain: str | None = None
    """Retain model, likewise; null: the one that the runs were compared with."""
    baseline: str | None = None
    """Model that single facts are compared with at first, likewise; null: the start model, else the first."""
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
    compared: str | None = None
    """Folder of `expunge compare`: the trade-off shows how these runs went from checkpoint to checkpoint."""


def report(call: Call[ReportConfig]) -> int:
    """Say what came of unlearning, model by model: in short here, and in full in a report as one file."""
    from expunge.report import html
    from expunge.report.baselines import beside, with_named
    from expunge.report.compared_models import assign_roles, distinct, gather
    from expunge.report.data import build
    from expunge.report.mask_figures import trained_in
    from expunge.report.tables import comparison, terminal
    from expunge.results.studies import models_of

    if not call.positional:
        raise ExpungeError("name the evaluated models: expunge report runs/npo runs/simnpo output=report.html")
    config = call.config
    path = Path(config.output or f"report.{html.ENDINGS[config.format]}")
    html.check_file(path, config.format, overwrite=call.overwrite)
    models = [str(model) for named in call.positional for model in models_of(Path(named))]
    gathered, labels = with_named(
        distinct(gather(models)), start=config.start, retain=config.retain, baseline=config.baseline
    )
    more = beside(models, gathered, start=labels["start"], retain=labels["retain"])
    evaluations = (*gathered, *more.evaluations)
    roles = {"start": more.start, "retain": more.retain}
    attacked, left = _attacked(models, config.attacked, assign_roles(evaluations, **roles))
    data = build(
        evaluations,
        title=config.title,
        baseline=labels["baseline"],
        attacked=attacked,
        texts=config.texts,
        notes=(*more.notes, *left),
        leak=config.leak,
        keep=config.keep,
        **roles,
    )
    given = _fingerprints(config.masks)
    html.write(
        data,
        path,
        format=config.format,
        histories=html.histories_in(call.positional),
        trajectories=_trajectories(config.compared, [one.label for one in evaluations]),
        masks=(*html.untold(trained_in(models), given), *given),
    )
    draw_split(terminal(comparison(evaluations, **roles)))
    for verdict in data.verdicts:
        heading(f"{data.models[verdict.model].name}: {verdict.headline}")
        for sentence in verdict.sentences:
            say(f"- {sentence}")
    for note in data.notes:
        say(note)
    say(f"report: {path}")
    return 0


def _attacked(
    runs: Sequence[str], further: Sequence[str], models: "Sequence[Model]"
) -> "tuple[list[Attacked], list[str]]":
    """Results of attacks that were named, and those beside these runs as far as they fit; why others do not."""
    from expunge.report.facts import fitting
    from expunge.results.attacked import FILE, load_attacked
    from expunge.results.places import attacked_beside

    named = [(Path(path) / FILE if Path(path).is_dir() else Path(path)).resolve() for path in further]
    beside = dict.fromkeys(file.resolve() for run in runs for file in attacked_beside(Path(run)))
    given = [load_attacked(path) for path in dict.fromkeys(named)]
    return fitting(models, given, {path: load_attacked(path) for path in beside if path not in named})


def _trajectories(folder: str | None, labels: Sequence[str]) -> Mapping[str, Sequence[tuple[float, float]]]:
    """By label, how the runs of a comparison went; those that are among the evaluations."""
    if folder is None:
        return {}
    from expunge.results.curves import Comparison

    known: Mapping[str, Sequence[tuple[float, float]]] = {
        curve.label: curve.path for curve in Comparison.load(folder).curves
    }
    if not (shown := {label: path for label, path in known.items() if label in labels}):
        raise ExpungeError(
            f"{folder} compares {', '.join(known)}, and the evaluations here are {', '.join(labels)}: none is among "
            "them. Name the runs that were compared."
        )
    return shown


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
