"""The report: what evaluations and attacks say about models, as a page, Markdown, JSON or a table."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from expunge.core.checks import ExpungeError, path_of
from expunge.core.output import Kind, check_output_file
from expunge.core.whole import write_whole
from expunge.masks.mask_fingerprint import Fingerprint
from expunge.report.as_csv import as_csv
from expunge.report.as_markdown import as_markdown
from expunge.report.attack_curves import attack_curves
from expunge.report.baselines import with_named
from expunge.report.buckets import KEEP, LEAK
from expunge.report.compared_models import Model, Source, gather, listed_sources
from expunge.report.data import ReportData, build
from expunge.report.figures import history, inline, strengths, tradeoff_of
from expunge.report.mask_figures import fingerprints, trained_in
from expunge.report.page import Drawing, page
from expunge.report.text import listed
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation
from expunge.results.places import model_folder
from expunge.results.texts import Texts, check_texts

Format = Literal["html", "markdown", "json", "csv"]
ENDINGS: Mapping[str, str] = {"html": "html", "markdown": "md", "json": "json", "csv": "csv"}
HISTORY = "history.csv"
"""Losses of training, in a run folder."""


def report(
    evaluations: Source | Iterable[Source],
    path: str | Path,
    *,
    title: str = "Unlearning report",
    start: str | None = None,
    retain: str | None = None,
    baseline: str | None = None,
    histories: Mapping[str, Sequence[Mapping[str, float | None]]] | None = None,
    trajectories: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    overwrite: bool = False,
    notes: Sequence[str] = (),
    masks: Sequence[Fingerprint] = (),
    attacked: Sequence[Attacked] = (),
    texts: Texts = "keep",
    format: Format = "html",
    leak: float = LEAK,
    keep: float = KEEP,
) -> Path:
    """Write a report about one or several evaluated models, as one file.

    Everything in it comes from the evaluations and attacks: the same give the same bytes. The page needs no network;
    all text of models and data is escaped. Its data, which `format="json"` gives alone, are described in
    docs/report.md.

    Args:
        evaluations: each an `Evaluation`, a path to an `evaluation.json`, or a run folder that holds one.
        path: the file to write; missing folders are made.
        title: heading of the page.
        start: start model, marked as such and never called best: the label of one of these evaluations, or a path as
            above.
        retain: retain model, likewise.
        baseline: model that single facts are compared with at first, likewise; None: the start model, else the first
            of several.
        histories: label of a run -> its rows, one a step, as `figures.history` takes them; None: those in the run
            folders.
        trajectories: label of an evaluation -> (forgetting, retention) along its run, as `figures.tradeoff` takes them.
        overwrite: replace a file that is there.
        notes: paragraphs of your own, below the verdict.
        masks: where masks are, drawn side by side; those that the run folders were trained with are found by
            themselves.
        attacked: results of attacks on these models.
        texts: what is shown of questions, answers and prompts: the texts (`keep`), their SHA-256 (`hash`) or nothing
            (`drop`).
        format: `html` (a page), `markdown` (verdicts and tables), `json` (all data) or `csv` (one row a fact and
            model).
        leak: value above the retain model's, in (0, 1], from which a fact counts as coming out when it is asked as in
            the data. Attacks have their own thresholds.
        keep: value, in (0, 1], from which a fact that should stay counts as kept.

    Returns:
        The path written.

    Raises:
        ExpungeError: the file is there and `overwrite` was not said; nothing to report; a path without an evaluation; a
            start, retain or baseline model that is neither a label nor a path; an unknown format; a threshold out of
            its range.
    """
    path = path_of("path", path)
    check_texts(texts)
    check_file(path, format, overwrite=overwrite)
    sources = listed_sources(evaluations)
    shown, labels = with_named(gather(sources), start=start, retain=retain, baseline=baseline)
    data = build(
        shown,
        title=title,
        **labels,
        attacked=attacked,
        texts=texts,
        notes=notes,
        leak=leak,
        keep=keep,
    )
    return write(
        data,
        path,
        format=format,
        histories=histories_in(sources) if histories is None else histories,
        trajectories=trajectories,
        masks=(*untold(trained_in(sources), masks), *masks),
    )


def check_file(path: Path, format: Format, *, overwrite: bool) -> None:
    """Raise for a form that no report has, or a file that may not be replaced."""
    check_format(format)
    kind: Kind = "page" if format == "html" else "report"
    check_output_file(path, overwrite=overwrite, kind=kind)


def untold(trained: Iterable[Fingerprint], given: Iterable[Fingerprint]) -> list[Fingerprint]:
    """The masks that runs were trained with and that were not handed in."""
    places = {mask.places for mask in given}
    return [mask for mask in trained if mask.places not in places]


def write(
    data: ReportData,
    path: Path,
    *,
    format: Format = "html",
    histories: Mapping[str, Sequence[Mapping[str, float | None]]] | None = None,
    trajectories: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    masks: Sequence[Fingerprint] = (),
) -> Path:
    """Write a report from its data; arguments as for `report`, whose page alone has drawings."""
    if format == "html":
        drawn = drawings(data, histories=histories or {}, trajectories=trajectories or {}, masks=masks)
        text = page(data.as_json(), drawn)
    elif format == "json":
        text = json.dumps(data.as_json(), indent=1, allow_nan=False) + "\n"
    else:
        text = as_markdown(data) if format == "markdown" else as_csv(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def check_format(format: str) -> None:
    """Raise for a form that no report has."""
    if format not in ENDINGS:
        raise ExpungeError(f"format must be one of {', '.join(ENDINGS)}; got {format!r}.")


def histories_in(sources: Iterable[Source]) -> dict[str, list[dict[str, float | None]]]:
    """The losses of training of runs, from their folders, under their names."""
    found = {}
    for source in sources:
        if isinstance(source, Evaluation):
            continue
        path = Path(source).resolve()
        run = model_folder(path if path.is_dir() else path.parent)
        if (run / HISTORY).is_file():
            with (run / HISTORY).open(encoding="utf-8", newline="") as file:
                rows = [
                    {key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)
                ]
            if any(name.endswith("_loss") or name == "loss" for row in rows for name in row):
                found[run.name] = rows
    return found


def drawings(
    data: ReportData,
    *,
    histories: Mapping[str, Sequence[Mapping[str, float | None]]],
    trajectories: Mapping[str, Sequence[tuple[float, float]]],
    masks: Sequence[Fingerprint],
) -> list[Drawing]:
    """What a page draws: the trade-off, curves of attacks, losses of training, and where masks are."""
    found = []
    if trajectories or any(strengths(model.evaluation) for model in data.models):
        about = (
            "Extraction strength is the share of an answer that the model still completes, token by token, when it is "
            "given the rest. Up: more of the retain set is kept. Right: more of the forget set is forgotten. Bars are "
            f"95 % intervals. {_dotted(data.models)}"
        )
        about += " Thin lines follow a run from checkpoint to checkpoint." if trajectories else ""
        drawn = inline(tradeoff_of(data.models, trajectories), "Forgetting against retention, one marker a model")
        found.append(Drawing("tradeoff", "Forgetting against retention", about, drawn, wide=False))
    if any(attack.column.leak and attack.column.leak.curve for attack in data.attacks):
        about = (
            "Attacks that go on step by step, such as relearning: how much comes out on the way. What counts is the "
            "distance of the model's line from the control's."
        )
        found.append(Drawing("curves", "Attacks step by step", about, inline(attack_curves(data), "Attack curves")))
    if histories:
        about = (
            "One column a run. The losses of different methods are different quantities, so each panel has a scale of "
            "its own; token probabilities can be compared."
        )
        found.append(Drawing("training", "Training", about, inline(history(histories), "Losses of training")))
    if masks:
        about = (
            "Share of the weights that a mask lets change, by layer and kind of parameter, in percent; all panels "
            "share one scale. Empty cells hold parameters that the mask could not select."
        )
        found.append(Drawing("masks", "Where the masks are", about, inline(fingerprints(masks), "Where the masks are")))
    return found


def _dotted(models: Sequence[Model]) -> str:
    """What the dotted lines of the trade-off are."""
    drawn = [model.role for model in models if model.role and strengths(model.evaluation)]
    lines = {"start": "the start model's retention", "retain": "the retain model's forgetting"}
    if len(drawn) == 2:
        return f"The dotted lines are {listed([lines[role] for role in drawn])}: where they cross is the aim."
    return f"The dotted line is {lines[drawn[0]]}." if drawn else ""
