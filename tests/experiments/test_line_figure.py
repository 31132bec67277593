"""Measures over a number: everything handed over is in the drawing."""

import pytest

from expunge.experiments._line_figure import Panel, over, over_ranks


def panel(measure: str, **more: object) -> Panel:
    series = {f"arm_{i}": {4: 0.5, 8: 0.1 * i} for i in range(10)}
    levels = {"start model": 1.0, "retain model": 0.1} | {f"arm_{i}_full": 0.05 * (i + 1) for i in range(10)}
    return Panel(measure, series, levels, **more)  # type: ignore[arg-type]


def test_nothing_is_left_out() -> None:
    """More series than colors, more level lines than dashes, more panels than fit side by side."""
    figure = over_ranks([panel(f"measure_{i}") for i in range(5)], {f"arm_{i}_full": f"arm_{i}" for i in range(10)})
    assert [axes.get_title() for axes in figure.axes] == [f"measure {i}" for i in range(5)]
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:10] == [f"arm {i}" for i in range(10)]
    assert set(names[10:]) == {"start model", "retain model"} | {f"arm {i} full" for i in range(10)}
    for axes in figure.axes:
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        assert lines["arm 3 full"].get_color() == lines["arm 3"][0].get_color()
        assert lines["start model"].get_linestyle() != lines["retain model"].get_linestyle()
        assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]


def test_values_that_are_missing_leave_a_gap_and_spreads_are_bars() -> None:
    series = {"npo": {1: 0.5, 2: None, 3: 0.25}}
    drawn = Panel("forget_quality", series, {"start model": None}, {"npo": {1: 0.1, 2: None, 3: 1.0}})
    figure = over("requests", [drawn])
    (axes,) = figure.axes
    ((bars,), _) = axes.get_legend_handles_labels()
    line, _, (sticks,) = bars
    assert list(line.get_xdata()) == [1, 3] and list(line.get_ydata()) == [0.5, 0.25]
    # On the logarithmic axis the second bar, of 1, ends at a tenth of its value, not below 0.
    ends = [stick[:, 1].tolist() for stick in sticks.get_segments()]
    assert ends == [pytest.approx([0.4, 0.6]), pytest.approx([0.025, 1.25])]
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "requests"
