"""Drawings of a study: every trial as a line through its settings, and candidates between two objectives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from expunge.core.checks import ExpungeError
from expunge.core.whole import write_whole
from expunge.report.figures import INK, PALETTE, save_png, svg
from expunge.report.text import one_line

PARALLEL, PARETO = "parallel", "pareto"
GRAY = "#9aa3ab"
"""What breaks a constraint."""
_SHADES = LinearSegmentedColormap.from_list("study", (PALETTE[0], "#c8ccd0", PALETTE[1]))
_MOST_LETTERS = 22

Value = str | float


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn of a study."""

    trials: Sequence[Mapping[str, Value]]
    """By setting its value; a setting that takes no part in a trial is missing."""
    values: Sequence[float]
    """Of the first objective, by trial."""
    feasible: Sequence[bool]
    """Does a trial keep all constraints?"""
    objective: str
    """What the first objective is: `minimize forget_rouge`."""
    better_low: bool
    """Is a small value good?"""
    candidates: Sequence[tuple[float, float, bool]]
    """Two measures of each candidate, and whether it keeps all constraints."""
    front: Sequence[int]
    """Positions of candidates that no other one beats."""
    axes: tuple[str, str]
    """What the two measures are."""


def parallel(drawn: Drawn) -> Figure:
    """A line for each trial, through its settings from left to right to the first objective, which gives its color.

    Numbers of a setting stand on a scale, by factors where all are above 0 and far apart; names stand evenly apart.
    Trials that break a constraint are gray.

    Raises:
        ExpungeError: there is no trial.
    """
    if not drawn.trials:
        raise ExpungeError("there is no finished trial to draw.")
    names = list(dict.fromkeys(name for trial in drawn.trials for name in trial))
    columns: list[Sequence[Value | None]] = [[trial.get(name) for trial in drawn.trials] for name in names]
    columns.append([value if math.isfinite(value) else None for value in drawn.values])
    titles = [*names, drawn.objective]
    figure = Figure(figsize=(1.6 + 1.9 * len(titles), 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.3, len(titles) - 0.5), ylim=(-0.06, 1.06), yticks=[])
    heights = [_column(axes, at, column) for at, column in enumerate(columns)]
    kept = [v for v, ok in zip(drawn.values, drawn.feasible, strict=True) if ok and math.isfinite(v)]
    scale = Normalize(min(kept, default=0.0), max(kept, default=1.0))
    shades = _SHADES if drawn.better_low else _SHADES.reversed()
    order = sorted(range(len(drawn.trials)), key=lambda i: drawn.feasible[i])  # gray lines lie below
    for i in order:
        line = [(at, y) for at, height in enumerate(heights) if (y := height[i]) is not None]
        xs, ys = [x for x, _ in line], [y for _, y in line]
        good = drawn.feasible[i] and math.isfinite(drawn.values[i])
        color = shades(scale(drawn.values[i])) if good else GRAY
        axes.plot(xs, ys, color=color, linewidth=1.4, alpha=0.85 if good else 0.4, marker="o", markersize=3)
    axes.set_xticks(range(len(titles)), [_short(title) for title in titles], fontsize=9, color=INK, parse_math=False)
    axes.tick_params(length=0)
    axes.patch.set_alpha(0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(ScalarMappable(scale, shades), ax=axes, shrink=0.7, pad=0.02)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, so that no later drawing moves anything
    return figure


def _column(axes: Axes, at: int, column: Sequence[Value | None]) -> list[float | None]:
    """Draw one scale with its labels; the height of each value."""
    axes.plot((at, at), (0, 1), color=INK, alpha=0.35, linewidth=1, zorder=1)
    there = [value for value in column if value is not None]
    marks: dict[float, str]
    if there and all(isinstance(value, int | float) for value in there):
        numbers = [float(value) for value in there]
        low, high = min(numbers), max(numbers)
        factors = low > 0 and high / low >= 10
        ends = (math.log(low), math.log(high)) if factors else (low, high)

        def height(value: float) -> float:
            own = math.log(value) if factors else value
            return 0.5 if ends[0] == ends[1] else (own - ends[0]) / (ends[1] - ends[0])

        heights = [None if value is None else height(float(value)) for value in column]
        marks = {height(value): f"{value:.3g}" for value in (low, high)}
    else:
        texts = sorted({str(value) for value in there})
        places = {text: 0.5 if len(texts) == 1 else i / (len(texts) - 1) for i, text in enumerate(texts)}
        heights = [None if value is None else places[str(value)] for value in column]
        marks = {place: _short(text) for text, place in places.items()}
    for place, text in marks.items():
        axes.text(at + 0.04, place, text, ha="left", va="center", fontsize=8, color=INK, zorder=5, parse_math=False)
    return heights


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def pareto(drawn: Drawn) -> Figure:
    """Every candidate between two measures; those that no other one beats are joined.

    Raises:
        ExpungeError: there is no candidate with both.
    """
    known = [i for i, (x, y, _) in enumerate(drawn.candidates) if math.isfinite(x) and math.isfinite(y)]
    if not known:
        raise ExpungeError("there is no candidate to draw.")
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=INK, alpha=0.1, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=INK, alpha=0.5)
    look: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
    for keeps, color, shape, what in (
        (False, GRAY, "X", "breaks a constraint"),
        (True, PALETTE[0], "o", "keeps all constraints"),
    ):
        points = [drawn.candidates[i] for i in known if drawn.candidates[i][2] == keeps]
        if points:
            xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
            axes.plot(xs, ys, color=color, marker=shape, markersize=5, alpha=0.7, label=what, **look)
    edge = sorted(drawn.candidates[i][:2] for i in drawn.front)
    if edge:
        label = "best candidate" if len(edge) == 1 else "no candidate here is better in both"
        xs, ys = [x for x, _ in edge], [y for _, y in edge]
        axes.plot(xs, ys, color=PALETTE[1], marker="o", markersize=8, fillstyle="none", linewidth=1.2, label=label)
    axes.set_xlabel(one_line(drawn.axes[0]), color=INK, parse_math=False)
    axes.set_ylabel(one_line(drawn.axes[1]), color=INK, parse_math=False)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def write(drawn: Drawn, folder: Path) -> list[Path]:
    """Write both drawings as SVG and PNG into a folder; nothing where no trial has a value."""
    if not any(map(math.isfinite, drawn.values)):
        return []
    written = []
    for name, figure in ((PARALLEL, parallel(drawn)), (PARETO, pareto(drawn))):
        write_whole(folder / f"{name}.svg", svg(figure, title=name))
        written += [folder / f"{name}.svg", save_png(figure, folder / f"{name}.png")]
    return written
