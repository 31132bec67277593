"""Cells of an experiment: one measure by method and place, a dot a seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from expunge.core.checks import ExpungeError
from expunge.core.whole import write_whole
from expunge.report.figures import INK, PALETTE, save_png, svg
from expunge.report.text import words

BASELINE = "random"
"""The place that the others are compared with."""
SHOWN = ("aues_hypervolume", "mu95_best", "resistance")

Values = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Method -> measure -> place -> one value a seed."""


def figure(values: Values, *, margins: Mapping[str, float]) -> Figure:
    """One row of panels a method, one panel a measure: places downward, a dot a seed, a bar over one deviation.

    The band around the baseline's mean is the margin within which a mean difference counts as none.

    Args:
        values: method -> measure -> place -> one value a seed.
        margins: by the measure's first word.

    Raises:
        ExpungeError: none of the measures that are drawn is there.
    """
    names = [name for name in SHOWN if any(name in measures for measures in values.values())]
    if not names:
        raise ExpungeError(f"nothing to draw: no cell holds any of {', '.join(SHOWN)}.")
    places = list(dict.fromkeys(p for measures in values.values() for of in measures.values() for p in of))
    high = 0.7 + 0.28 * len(places)
    drawn = Figure(figsize=(1.2 + 2.6 * len(names), 0.5 + high * len(values)), layout="constrained")
    panels = drawn.subplots(len(values), len(names), squeeze=False)
    for row, (method, measures) in zip(panels, values.items(), strict=True):
        for column, (axes, name) in enumerate(zip(row, names, strict=True)):
            _panel(axes, measures.get(name, {}), places, margins[name.partition("_")[0]])
            axes.set_title(f"{method}: {words(name)}", fontsize=9, color=INK, loc="left")
            axes.set_yticks(range(len(places)), places if column == 0 else [])
    return drawn


def write(values: Values, folder: str | Path, *, margins: Mapping[str, float]) -> list[Path]:
    """Write `cells.png` and `cells.svg` into a folder."""
    drawn, vector = figure(values, margins=margins), Path(folder) / "cells.svg"
    write_whole(vector, svg(drawn, title="Measures by method and place, a dot a seed"))
    return [save_png(drawn, Path(folder) / "cells.png"), vector]


def _panel(axes: Axes, places: Mapping[str, Sequence[float]], order: Sequence[str], margin: float) -> None:
    if BASELINE in places:
        center = mean(places[BASELINE])
        axes.axvspan(center - margin, center + margin, color=INK, alpha=0.08, linewidth=0)
        axes.axvline(center, color=INK, alpha=0.45, linewidth=1)
    for at, place in enumerate(order):
        found, color = places.get(place, ()), PALETTE[at % len(PALETTE)]
        axes.plot(found, [at] * len(found), "o", color=color, alpha=0.45, markersize=4, markeredgewidth=0)
        if found:
            spread = stdev(found) if len(found) > 1 else 0.0
            axes.plot([mean(found) - spread, mean(found) + spread], [at, at], color=color, linewidth=1.6)
            axes.plot([mean(found)], [at], "|", color=color, markersize=13, markeredgewidth=2)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(labelsize=8, colors=INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines[["top", "right"]].set_visible(False)
