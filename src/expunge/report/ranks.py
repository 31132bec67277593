"""Measures over a number, such as the rank of an adapter: one panel a measure, one line a method."""

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from expunge.report.figures import INK, PALETTE, SHAPES
from expunge.report.wording import words

LOGARITHMIC = ("forget_quality",)
"""Measures drawn on a logarithmic axis: p-values, which differ by orders of magnitude."""

Series = Mapping[str, Mapping[int, float | None]]
"""By method, the value at each number; a value that could not be had is left out."""


def over_ranks(measures: Mapping[str, Series], levels: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw measures over the rank, in doublings; the arguments are those of `over`."""
    figure = over("rank", measures, levels)
    for axes in figure.axes:
        ticks = axes.get_xticks()
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    return figure


def over(what: str, measures: Mapping[str, Series], levels: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw measures over a number.

    Args:
        what: the number, as the axis is called.
        measures: by measure, its series.
        levels: by measure, what goes without the number (start model, retain model), as level lines.
    """
    figure = Figure(figsize=(4.2 * len(measures), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, (name, series) in zip(panels, measures.items(), strict=True):
        numbers: Sequence[int] = sorted({number for values in series.values() for number in values})
        for (method, values), color, shape in zip(series.items(), PALETTE, SHAPES, strict=False):
            points = [(number, value) for number, value in sorted(values.items()) if value is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], color=color, marker=shape, label=method)
        for (level_of, level), style in zip(levels.get(name, {}).items(), ((0, (1, 3)), "--", "-."), strict=False):
            if level is not None:
                axes.axhline(level, color=INK, linewidth=1, linestyle=style, label=level_of)
        if name in LOGARITHMIC:
            axes.set_yscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xlabel(what)
        axes.set_title(words(name))
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8)
    return figure
