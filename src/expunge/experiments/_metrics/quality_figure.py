"""How far metrics can be trusted, drawn: what knowing and ignorant models score, and how each metric is judged."""

from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from expunge.report.figures import INK, PALETTE
from expunge.report.text import words
from expunge.results.metric_quality import Judgment

_GRID: dict[str, Any] = {"axis": "x", "color": INK, "alpha": 0.12, "linewidth": 0.8}


def drawing(judgments: Sequence[Judgment]) -> Figure:
    """One row a metric, the most faithful on top: values of the pool on the left, judgments on the right.

    Args:
        judgments: at least one.
    """
    ordered = sorted(judgments, key=lambda judgment: (judgment.faithfulness, judgment.overall or 0.0))
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(ordered)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    for row, judgment in enumerate(ordered):
        first = row == 0
        _pool(left, row, judgment, first)
        _judged(right, row, judgment, first)
    left.set_yticks(range(len(ordered)), [words(judgment.metric) for judgment in ordered])
    left.set_title("what models score", fontsize=10, color=INK)
    right.set_title("how the metric is judged", fontsize=10, color=INK)
    for axes in (left, right):
        axes.set_xlim(-0.03, 1.03)
        axes.grid(**_GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, labelcolor=INK)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _pool(axes: Any, row: int, judgment: Judgment, first: bool) -> None:
    def label(text: str) -> str:
        return text if first else "_"

    values = list(judgment.knowing.values())
    axes.plot(values, [row + 0.2] * len(values), "o", color=PALETTE[1], markersize=5, label=label("models that know"))
    values = list(judgment.ignorant.values())
    axes.plot(values, [row] * len(values), "s", color=PALETTE[0], markersize=4.5, label=label("models that do not"))
    values = [one.before for one in judgment.attacked]
    axes.plot(values, [row - 0.2] * len(values), "x", color=PALETTE[3], markersize=5, label=label("unlearned models"))
    axes.plot([judgment.threshold] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=1, label=label("threshold"))


def _judged(axes: Any, row: int, judgment: Judgment, first: bool) -> None:
    def label(text: str) -> str:
        return text if first else "_"

    low, high = judgment.interval
    axes.plot([low, high], [row, row], color=PALETTE[2], linewidth=1.6, alpha=0.5)
    axes.plot(judgment.faithfulness, row, "D", color=PALETTE[2], markersize=7, label=label("faithfulness, 95 %"))
    marks = (
        (judgment.resistance, "P", PALETTE[4], "R: relearning"),
        (judgment.stability(4), "v", PALETTE[5], "Q: 4 bits"),
        (judgment.stability(8), "^", PALETTE[6], "Q: 8 bits"),
    )
    for (value, shape, color, text), height in zip(marks, (0.0, -0.18, 0.18), strict=True):
        shown = [] if value is None else [value]
        axes.plot(shown, [row + height] * len(shown), shape, color=color, markersize=6, label=label(text))
