"""The report: one HTML file that needs no network and no script, made of evaluations alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from expunge.core.checks import path_of
from expunge.core.manifest import versions
from expunge.core.output import check_output_file
from expunge.core.whole import write_whole
from expunge.masks.mask_fingerprint import Fingerprint
from expunge.report.compared_models import Model, Source, assign_roles, gather, listed_sources
from expunge.report.figures import SVG, history, strengths, svg, tradeoff_of
from expunge.report.leak_map import leak_map
from expunge.report.mask_figures import fingerprints, trained_in
from expunge.report.samples import by_split, side_by_side
from expunge.report.summary import STANDING, summary, warnings_of
from expunge.report.tables import Column, Table, measured, table_of
from expunge.report.templates import render
from expunge.report.text import flat, listed
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation, Measure
from expunge.results.texts import Texts, check_texts

SAMPLES_SHOWN = 5
"""Questions of a split that stand open; the others are folded."""


def report(
    evaluations: Source | Iterable[Source],
    path: str | Path,
    *,
    title: str = "Unlearning report",
    start: str | None = None,
    retain: str | None = None,
    histories: Mapping[str, Sequence[Mapping[str, float | None]]] | None = None,
    trajectories: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    overwrite: bool = False,
    notes: Sequence[str] = (),
    masks: Sequence[Fingerprint] = (),
    attacked: Sequence[Attacked] = (),
    texts: Texts = "keep",
) -> Path:
    """Write one self-contained HTML file about one or several evaluated models.

    Everything in it comes from the evaluations: the same give the same bytes. All text of models and data is escaped.

    Args:
        evaluations: each an `Evaluation`, a path to an `evaluation.json`, or a run folder that holds one.
        path: the file to write; missing folders are made.
        title: heading of the page.
        start: label of the start model, marked as such and never called best.
        retain: label of the retain model, likewise.
        histories: label of a run -> its rows, one a step, as `figures.history` takes them.
        trajectories: label of an evaluation -> (forgetting, retention) along its run, as `figures.tradeoff` takes them.
        overwrite: replace a file that is there.
        notes: paragraphs of your own, below the summary.
        attacked: results of attacks, each shown with its table and leak map.
        texts: what the page shows of sample questions and answers: the texts (`keep`), their SHA-256 (`hash`) or
            nothing (`drop`).
        masks: where masks are, drawn side by side; those that the run folders were trained with are found by
            themselves.

    Returns:
        The path written.

    Raises:
        ExpungeError: the file is there and `overwrite` was not said; nothing to report; a path without an evaluation; a
            label that no evaluation has.
    """
    path = path_of("path", path)
    check_texts(texts)
    check_output_file(path, overwrite=overwrite, kind="page")
    sources = listed_sources(evaluations)
    given = {mask.places for mask in masks}
    trained = [mask for mask in trained_in(sources) if mask.places not in given]
    text = page(
        [evaluation.with_texts(texts) for evaluation in gather(sources)],
        title=title,
        start=start,
        retain=retain,
        histories=histories or {},
        trajectories=trajectories or {},
        notes=notes,
        masks=(*trained, *masks),
        attacked=[found.with_texts(texts) for found in attacked],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def page(
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    start: str | None,
    retain: str | None,
    histories: Mapping[str, Sequence[Mapping[str, float | None]]],
    trajectories: Mapping[str, Sequence[tuple[float, float]]],
    notes: Sequence[str],
    masks: Sequence[Fingerprint] = (),
    attacked: Sequence[Attacked] = (),
) -> str:
    """The text of the report; arguments as for `report`."""
    models = assign_roles(evaluations, start=start, retain=retain)
    table = table_of(models)
    same, own = _made(models)
    return render(
        "page.html.jinja",
        title=title,
        version=versions()["expunge"],
        summary=summary(models),
        notes=notes,
        standing=STANDING,
        warnings=warnings_of(models, evaluations),
        table=table,
        any_interval=any(cell.interval for row in table.rows for cell in row.cells),
        any_best=any(cell.best for row in table.rows for cell in row.cells),
        tradeoff=_tradeoff(models, trajectories),
        dotted=_dotted(models),
        followed=bool(trajectories),
        attacks=[_attacked(found) for found in attacked],
        questions=by_split(side_by_side(models)),
        shown=SAMPLES_SHOWN,
        columns=_columns(len(models)),
        masks=inline(fingerprints(masks), "Where the masks are") if masks else "",
        history=inline(history(histories), "Losses of training") if histories else "",
        definitions=definitions(models, table),
        numbers=list(_numbers(models, table)),
        names=[model.name for model in models],
        same=same,
        own=own,
    )


def _tradeoff(models: Sequence[Model], trajectories: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    if not trajectories and not any(strengths(model.evaluation) for model in models):
        return ""
    return inline(tradeoff_of(models, trajectories), "Forgetting against retention, one marker a model")


def _attacked(found: Attacked) -> dict[str, Any]:
    """What the section on attacks shows of one model."""
    header, rows, numeric = found.table()
    return {
        "label": found.label,
        "told": found.text().split("\n"),
        "header": header,
        "rows": rows,
        "numeric": numeric,
        "map": inline(leak_map(found), f"{found.label}: facts as rows, attacks as columns"),
    }


def inline(figure: Figure, title: str) -> Markup:
    """The figure as part of a page."""
    # A page knows what <svg> is, so the name of the vocabulary can go: the page then holds no address at all.
    return Markup(svg(figure, title=title).replace(f' xmlns="{SVG}"', "", 1))


def _dotted(models: Sequence[Model]) -> str:
    """What the dotted lines of the drawing are."""
    drawn = [model.role for model in models if model.role and strengths(model.evaluation)]
    lines = {"start": "the start model's retention", "retain": "the retain model's forgetting"}
    if len(drawn) == 2:
        return f"The dotted lines are {listed([lines[role] for role in drawn])}: where they cross is the aim."
    return f"The dotted line is {lines[drawn[0]]}." if drawn else ""


def _columns(n: int) -> int:
    """How many answers stand side by side: all of up to four, else rows as full as can be of three or four."""
    return n if n <= 4 else min((4, 3), key=lambda columns: -n % columns)


@dataclass(frozen=True)
class _Entry:
    column: Column
    meanings: tuple[tuple[str, str, str], ...]
    """(definition, source, names of the models it goes for), one for all where they agree."""


def definitions(models: Sequence[Model], table: Table) -> list[_Entry]:
    """What each column means, with its source, for all models or for those that it goes for."""
    names = {model.label: model.name for model in models}
    held = measured(models)
    entries = []
    for column in table.header:
        meanings: dict[tuple[str, str], list[str]] = {}
        for label, measure in held[column.name].items():
            meanings.setdefault((measure.definition, measure.source), []).append(names[label])
        told = tuple((definition, source, listed(labels)) for (definition, source), labels in meanings.items())
        entries.append(_Entry(column, told))
    return entries


def _numbers(models: Sequence[Model], table: Table) -> Iterator[tuple[str, str, Measure]]:
    """(column, model, measure) of everything measured."""
    held = measured(models)
    for column in table.header:
        for model in models:
            if model.label in held[column.name]:
                yield column.name, model.name, held[column.name][model.label]


_Shared = list[tuple[str, str]]
_Differing = list[tuple[str, list[str]]]


def _made(models: Sequence[Model]) -> tuple[_Shared, _Differing]:
    """What all evaluations say alike about how they were made, and what differs, one text a model."""
    abouts = [{"suite": model.evaluation.suite, **flat(model.evaluation.about)} for model in models]
    shared: _Shared = []
    differing: _Differing = []
    for key in dict.fromkeys(key for about in abouts for key in about):
        told = [about.get(key, "-") for about in abouts]
        if len(set(told)) == 1:
            shared.append((key, told[0]))
        else:
            differing.append((key, told))
    return shared, differing
