"""Curves of unlearning runs: the drawing, and the page around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expunge.core.manifest import versions
from expunge.core.whole import write_whole
from expunge.report.compared_models import Model, assign_roles
from expunge.report.figures import INK, PALETTE, inline, save_png, svg, tradeoff_of
from expunge.report.summary import STANDING
from expunge.report.tables import Column, Table, measured, table_of
from expunge.report.templates import render
from expunge.report.text import listed
from expunge.results.curves import FILE as NUMBERS
from expunge.results.curves import SUMMARIES, Comparison

START, RETAIN = "start model", "retain model"
_FRONT: dict[str, Any] = {"color": INK, "linewidth": 1.2, "alpha": 0.55, "linestyle": (0, (4, 2)), "zorder": 1}


def table(comparison: Comparison) -> Table:
    """Start model, retain model and each group of seeds; one column a measure."""
    return table_of(_models(comparison))


def figure(comparison: Comparison) -> Figure:
    """Forgetting against retention: a line a run, from the start model on, and the Pareto front over all runs.

    Runs that differ by their seed share a color. A group's marker stands at its last model, at their mean where there
    are several, with a bar over the 95 % interval.
    """
    models = _models(comparison)
    drawn = tradeoff_of(models, [(curve.group, curve.path) for curve in comparison.curves])
    (axes,) = drawn.axes
    groups = [model.label for model in models if not model.role]
    for curve in comparison.curves:
        color = PALETTE[groups.index(curve.group) % len(PALETTE)]
        if curve.calibrated is not None:
            ring: dict[str, Any] = {
                "markerfacecolor": "none",
                "markeredgecolor": color,
                "markersize": 11,
                "linestyle": "none",
            }
            axes.plot([curve.calibrated.fs], [curve.calibrated.rs], marker="o", zorder=4, **ring)
    _front(axes, _front_points(comparison))
    return drawn


FILES = ("comparison.html", "curves.svg", "curves.png", NUMBERS, f"{SUMMARIES}/*.json")
"""What `write` leaves in its folder."""


def write(comparison: Comparison, folder: str | Path, *, title: str = "Forgetting against retention") -> list[Path]:
    """Write `comparison.html`, `curves.svg`, `curves.png` and the numbers (`comparison.json`) into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figure(comparison)
    page, vector, bitmap = (folder / name for name in ("comparison.html", "curves.svg", "curves.png"))
    for path in (page, vector, bitmap):
        path.unlink(missing_ok=True)  # a kill leaves no mixture of two comparisons
    numbers = comparison.save(folder)
    write_whole(vector, svg(drawn, title=title))
    save_png(drawn, bitmap)
    write_whole(page, _page(comparison, drawn, title))
    return [page, vector, bitmap, numbers]


def _models(comparison: Comparison) -> tuple[Model, ...]:
    return assign_roles(comparison.evaluations, start=START, retain=RETAIN if comparison.retain else None)


def _front_points(comparison: Comparison) -> list[tuple[float, float]]:
    known = {(curve.label, p.name): (p.fs, p.rs) for curve in comparison.curves for p in curve.points}
    known[START, START] = (comparison.start.fs, comparison.start.rs)
    return [known[place] for place in comparison.front]


def _front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    # Steps, since between two models of the front there is none that has the better half of both.
    xs, ys = [0.0], [points[0][1]]
    for (x, y), (_, below) in zip(points, [*points[1:], (0.0, 0.0)], strict=True):
        xs += [x, x]
        ys += [y, below]
    axes.plot(xs, ys, label="Pareto front: no model here has more of both", **_FRONT)
    axes.legend(loc="lower left", frameon=False, fontsize=8.5, labelcolor=INK)


def _page(comparison: Comparison, drawn: Figure, title: str) -> str:
    models = _models(comparison)
    made = table_of(models)
    return render(
        "curves.html.jinja",
        title=title,
        version=versions()["expunge"],
        notes=comparison.notes,
        standing=STANDING,
        table=made,
        drawing=inline(drawn, title),
        calibrated=any(curve.calibrated for curve in comparison.curves),
        front=comparison.front,
        definitions=_definitions(models, made),
        seeds=[(c.group, c.label, c.seed, len(c.points)) for c in comparison.curves],
    )


@dataclass(frozen=True)
class _Entry:
    column: Column
    meanings: tuple[tuple[str, str, str], ...]
    """(definition, source, names of the models it goes for), one for all where they agree."""


def _definitions(models: Sequence[Model], table: Table) -> list[_Entry]:
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
