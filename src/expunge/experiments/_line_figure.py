"""Measures over a number, such as the rank of an adapter: one panel a measure, one line a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from expunge.report.figures import INK, PALETTE, SHAPES
from expunge.report.text import words

LOGARITHMIC = ("forget_quality",)
"""Measures drawn on a logarithmic axis: p-values, which differ by orders of magnitude."""
ACROSS = 3
"""Most panels side by side."""
DASHES = (":", "-.", "--")

Series = Mapping[str, Mapping[int, float | None]]
"""By method, the value at each number; a value that is not available is left out."""


@dataclass(frozen=True)
class Panel:
    """What is drawn of one measure."""

    measure: str
    series: Series
    levels: Mapping[str, float | None]
    """What goes without the number (start model, retain model, training without an adapter), as level lines."""
    spreads: Series = field(default_factory=dict)
    """Standard deviations of the series, drawn as bars; at most as far as the axis reaches."""


def over_ranks(panels: Sequence[Panel], companions: Mapping[str, str]) -> Figure:
    """Draw measures over the rank, in doublings; the arguments are those of `over`."""
    figure = over("rank", panels, companions)
    for axes in figure.axes[: len(panels)]:
        ticks = axes.get_xticks()
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.minorticks_off()
    return figure


def over(what: str, panels: Sequence[Panel], companions: Mapping[str, str] | None = None) -> Figure:
    """Draw measures over a number.

    Args:
        what: the number, as the axis is called.
        panels: one a measure.
        companions: by level line, the series whose color it shares; the others have the color of the axes.
    """
    rows = -(-len(panels) // ACROSS)
    columns = -(-len(panels) // rows)
    figure = Figure(figsize=(4.0 * columns + 2.0, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        _draw(axes, panel, companions or {})
        axes.set_xlabel(what)
    for axes in places[len(panels) :]:
        axes.remove()
    drawn = [entry for axes in figure.axes for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    # Series before level lines, each once: a panel may lack one of them.
    entries = {label: mark for mark, label in sorted(drawn, key=lambda entry: isinstance(entry[0], Line2D))}
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, panel: Panel, companions: Mapping[str, str]) -> None:
    colors: dict[str, str] = {}
    looks = zip(cycle(PALETTE), cycle(SHAPES), strict=True)
    for (method, values), (color, shape) in zip(panel.series.items(), looks, strict=False):
        colors[method] = color
        points = {number: value for number, value in sorted(values.items()) if value is not None}
        found = panel.spreads.get(method, {})
        bars = [found.get(number) or 0.0 for number in points]
        logarithmic = panel.measure in LOGARITHMIC
        # A bar that would reach below 0 has no end on a logarithmic axis.
        down = [min(bar, 0.9 * y) if logarithmic else bar for bar, y in zip(bars, points.values(), strict=True)]
        axes.errorbar(
            list(points),
            list(points.values()),
            yerr=[down, bars] if any(bars) else None,
            color=color,
            marker=shape,
            elinewidth=1,
            capsize=2,
            label=words(method),
        )
    dashes = cycle(DASHES)
    for name, level in panel.levels.items():
        color = colors.get(companions.get(name, ""), INK)
        style = "--" if color != INK else next(dashes)
        if level is not None:
            axes.axhline(level, color=color, linewidth=1.2, linestyle=style, label=words(name))
    if panel.measure in LOGARITHMIC:
        axes.set_yscale("log")
    numbers = sorted({number for values in panel.series.values() for number in values})
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_title(words(panel.measure), fontsize=11)
