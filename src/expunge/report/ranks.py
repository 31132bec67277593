"""Measures over the rank of an adapter: one panel a measure, one line a method."""

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from expunge.report.figures import INK, PALETTE, SHAPES
from expunge.report.wording import words

LOGARITHMIC = ("forget_quality",)
"""Measures drawn on a logarithmic axis: p-values, which differ by orders of magnitude."""

Series = Mapping[str, Mapping[int, float | None]]
"""By method, the value at each rank; a value that could not be had is left out."""


def over_ranks(measures: Mapping[str, Series], levels: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw measures over the rank.

    Args:
        measures: by measure, its series.
        levels: by measure, what has no rank (start model, retain model, full-parameter training), as level lines.
    """
    figure = Figure(figsize=(4.2 * len(measures), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, (name, series) in zip(panels, measures.items(), strict=True):
        ranks: Sequence[int] = sorted({rank for values in series.values() for rank in values})
        for (method, values), color, shape in zip(series.items(), PALETTE, SHAPES, strict=False):
            points = [(rank, value) for rank, value in sorted(values.items()) if value is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], color=color, marker=shape, label=method)
        for (what, level), style in zip(levels.get(name, {}).items(), ((0, (1, 3)), "--", "-."), strict=False):
            if level is not None:
                axes.axhline(level, color=INK, linewidth=1, linestyle=style, label=what)
        axes.set_xscale("log", base=2)
        if name in LOGARITHMIC:
            axes.set_yscale("log")
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.set_xlabel("rank")
        axes.set_title(words(name))
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8)
    return figure
