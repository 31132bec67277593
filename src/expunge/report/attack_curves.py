"""The curves of attacks that go on step by step, one panel an attack."""

import math
import textwrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from expunge.report.data import ReportData
from expunge.report.figures import INK, PALETTE, frame
from expunge.report.text import one_line

COLUMNS = 4
_MODEL: dict[str, Any] = {"color": PALETTE[1], "linewidth": 1.6, "marker": "o", "markersize": 3}
_CONTROL: dict[str, Any] = {"color": PALETTE[0], "linewidth": 1.4, "linestyle": (0, (5, 1.5))}


def attack_curves(data: ReportData) -> Figure:
    """One panel per model and attack with a curve: the mean value over its steps, and that of its control."""
    shown = [one for one in data.attacks if one.column.leak is not None and one.column.leak.curve]
    across = min(COLUMNS, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(0.6 + 2.5 * across, 0.5 + 2.1 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        leak, control = shown[place].column.leak, shown[place].column.control
        assert leak is not None
        frame(axes)
        axes.tick_params(labelsize=8)
        axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
        axes.plot([x for x, _ in leak.curve], [y for _, y in leak.curve], **_MODEL)
        if control is not None and control.curve:
            axes.plot([x for x, _ in control.curve], [y for _, y in control.curve], **_CONTROL)
        name = textwrap.fill(one_line(f"{data.models[shown[place].model].label}: {shown[place].column.name}"), 30)
        axes.set_title(name, fontsize=9, color=INK, loc="left", parse_math=False)
        axes.set_xlabel("step", fontsize=9, color=INK)
        if place % across == 0:
            axes.set_ylabel(one_line(leak.measure), fontsize=9, color=INK, parse_math=False)
    key = [Line2D([], [], **_MODEL), Line2D([], [], **_CONTROL)]
    figure.legend(
        key, ["model", "control"], loc="outside lower right", ncols=2, frameon=False, fontsize=9, labelcolor=INK
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
