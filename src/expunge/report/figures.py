"""Drawings: forgetting against retention, and the losses of training. matplotlib's figures without pyplot's state."""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from expunge.core.checks import ExpungeError, unknown
from expunge.core.whole import whole_file
from expunge.report.compared_models import Model, assign_roles
from expunge.report.text import one_line, words
from expunge.results.measures import Evaluation

FORGET, RETAIN = "forget_extraction_strength", "retain_extraction_strength"
FS, RS = "forget_strength", "retain_strength"
"""What summaries of curves hold instead: FS = 1 - extraction strength on the forget set, and RS."""

# Each has a contrast of 3 or more with white and near-black. Shapes differ too, for whoever cannot tell the colors.
PALETTE = ("#2478b8", "#d1580a", "#0d8f6b", "#b75a9c", "#a67a00", "#7d6bd0", "#5f7f8f", "#c2475a")
SHAPES = ("o", "^", "s", "v", "P", "X", "p", "h")
INK = "#1d2126"
"""Text and axes. In SVG it becomes `currentColor`, so that a drawing follows its page from light to dark."""

_FORGOTTEN: dict[str, Any] = {"color": PALETTE[1], "linewidth": 1.4, "linestyle": (0, (5, 1.5)), "zorder": 3}
_KEPT: dict[str, Any] = {"color": PALETTE[0], "linewidth": 1.4}
_LOOKS = {"start": {"marker": "D", "markersize": 8}, "retain": {"marker": "*", "markersize": 14}}
_FONT = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
SVG = "http://www.w3.org/2000/svg"


Path2d = Sequence[tuple[float, float]]
Trajectories = Mapping[str, Path2d] | Sequence[tuple[str, Path2d]]


class Point(NamedTuple):
    """Where a model stands in the trade-off."""

    x: float
    y: float
    across: tuple[float, float] | None
    """Interval of x."""
    along: tuple[float, float] | None
    """Interval of y."""


def tradeoff(
    evaluations: Sequence[Evaluation],
    *,
    start: str | None,
    retain: str | None,
    trajectories: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Figure:
    """Forgetting against retention, one marker a model, with the measures' intervals as bars.

    x = 1 - extraction strength on the forget set, y = extraction strength on the retain set, both in [0, 1]; the upper
    right corner is best. Dotted lines show the retain model's forgetting and the start model's retention; where they
    cross is what a perfect method would reach.

    Args:
        evaluations: models; those that lack one of the two measures are named in a line below the drawing instead.
        start: label of the start model, or None.
        retain: label of the retain model, or None.
        trajectories: label of one of the evaluations -> (forgetting, retention) along its run, drawn as a thin line.

    Raises:
        ExpungeError: no evaluation has both measures, a label that none has, or a trajectory outside [0, 1].
    """
    return tradeoff_of(assign_roles(evaluations, start=start, retain=retain), trajectories)


def tradeoff_of(models: Sequence[Model], trajectories: Trajectories | None = None) -> Figure:
    """The trade-off of models that have their roles already; several trajectories may have one label."""
    paths = [*trajectories.items()] if isinstance(trajectories, Mapping) else [*(trajectories or ())]
    points = [(model, point) for model in models if (point := strengths(model.evaluation))]
    if not points:
        raise ExpungeError(f"the trade-off needs {FORGET} and {RETAIN}, and no evaluation has a value for both.")
    side, key = 6.6, 2.3 * _key_columns(points)
    figure = Figure(figsize=(side + key, 6.1))
    axes = figure.add_axes((0.105 * side / (side + key), 0.1, 0.865 * side / (side + key), 0.86))
    frame(axes)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    axes.set_xlabel("forgetting  (1 − extraction strength on the forget set)", color=INK)
    axes.set_ylabel("retention  (extraction strength on the retain set)", color=INK)
    axes.plot([0.96, 1.04, 1.04], [1.04, 1.04, 0.96], color=INK, linewidth=2.5, solid_capstyle="butt", clip_on=False)
    axes.text(1.04, 1.052, "ideal: all forgotten, all kept", ha="right", va="bottom", color=INK, fontsize=9)
    methods = [model for model in models if not model.role]
    colors = {model.label: PALETTE[i % len(PALETTE)] for i, model in enumerate(methods)}
    looks: dict[str, dict[str, Any]] = {
        model.label: {"marker": SHAPES[i % len(SHAPES)], "markersize": 9} for i, model in enumerate(methods)
    }
    for label, path in paths:
        if label not in {model.label for model in models}:
            raise unknown("evaluation (for trajectories=)", label, [model.label for model in models])
        _trajectory(axes, label, path, colors.get(label, INK))
    marks: list[tuple[str, Line2D]] = []
    for model, (x, y, across, along) in points:
        color = colors.get(model.label, INK)
        bar: dict[str, Any] = {"color": color, "alpha": 0.55, "linewidth": 1.6, "solid_capstyle": "butt", "zorder": 3}
        dotted: dict[str, Any] = {"color": INK, "alpha": 0.45, "linewidth": 1, "linestyle": (0, (1, 3))}
        if model.role == "start":
            axes.axhline(y, **dotted)
        if model.role == "retain":
            axes.axvline(x, **dotted)
        if across:
            axes.plot(across, (y, y), **bar)
        if along:
            axes.plot((x, x), along, **bar)
        look = _LOOKS[model.role] if model.role else looks[model.label]
        (mark,) = axes.plot([x], [y], color=color, linestyle="none", markeredgewidth=0, zorder=4, **look)
        marks.append((model.name, mark))
    _key(figure, axes, marks)
    if missing := [model.name for model in models if not strengths(model.evaluation)]:
        text = textwrap.fill(f"Not drawn, as a measure is missing: {', '.join(missing)}", 95)
        figure.text(0.5, 0.005, text, ha="center", va="bottom", color=INK, fontsize=8.5, parse_math=False)
    return figure


def strengths(evaluation: Evaluation) -> Point | None:
    """(forgetting, retention) of a model; None where one of the two is missing or not a number."""
    if FS in evaluation and RS in evaluation:
        fs, rs = evaluation[FS], evaluation[RS]
        return None if fs.value is None or rs.value is None else Point(fs.value, rs.value, fs.interval, rs.interval)
    forget, kept = evaluation.get(FORGET), evaluation.get(RETAIN)
    if forget is None or forget.value is None or kept is None or kept.value is None:
        return None
    if not (math.isfinite(forget.value) and math.isfinite(kept.value)):
        return None
    across = (1 - forget.interval[1], 1 - forget.interval[0]) if forget.interval else None
    return Point(1 - forget.value, kept.value, across, kept.interval)


def _trajectory(axes: Axes, label: str, path: Sequence[tuple[float, float]], color: str) -> None:
    if not all(0 <= value <= 1 for pair in path for value in pair):
        raise ExpungeError(f"the trajectory of '{label}' must hold (forgetting, retention) pairs between 0 and 1.")
    xs, ys = [x for x, _ in path], [y for _, y in path]
    axes.plot(xs, ys, color=color, linewidth=1, alpha=0.7, marker=".", markersize=3.5, zorder=2)


def frame(axes: Axes) -> None:
    """The look that all axes share: a faint grid, and lines left and below alone."""
    axes.patch.set_alpha(0)
    axes.grid(color=INK, alpha=0.1, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=INK, alpha=0.5)


def _key(figure: Figure, axes: Axes, marks: Sequence[tuple[str, Line2D]]) -> None:
    """Name the markers at the right of the drawing, in as many columns as fit."""
    legend = figure.legend(
        [mark for _, mark in marks],
        [textwrap.fill(one_line(name), 26, max_lines=2, placeholder="…") for name, _ in marks],
        loc="upper left",
        bbox_to_anchor=(axes.get_position().x1 + 0.01, axes.get_position().y1),
        ncols=_key_columns(marks),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _key_columns(named: Sequence[object]) -> int:
    return math.ceil(len(named) / 12)


def history(histories: Mapping[str, Sequence[Mapping[str, float | None]]], *, columns: int = 4) -> Figure:
    """The losses of training, one small panel a run and loss, the runs side by side.

    Scales differ between panels, as the losses of different methods are different quantities. Where the rows hold token
    probabilities, forget and retain share a last panel from 0 to 1, which can be compared between methods.

    Args:
        histories: label -> one row a step with `step` and any of `forget_loss`, `retain_loss`, others ending in
            `_loss`, `forget_probability`, `retain_probability`. A value missing or not finite interrupts its line.
        columns: panels in a line.

    Raises:
        ExpungeError: no run, a row without its step, or no loss in any row.
    """
    if not histories:
        raise ExpungeError("a history needs at least one run; got none.")
    for label, rows in histories.items():
        if any(row.get("step") is None for row in rows):
            raise ExpungeError(f"each row of a history needs its 'step'; a row of '{label}' lacks it.")
    names = list(dict.fromkeys(name for rows in histories.values() for row in rows for name in row))
    losses = [name for name in names if name.endswith("_loss")] or [name for name in names if name == "loss"]
    if not losses:
        raise ExpungeError(f"no loss in these histories: their rows hold {', '.join(names) or 'nothing'}.")
    panels: list[tuple[str, ...]] = [(name,) for name in losses]
    if probabilities := tuple(name for name in names if name.endswith("_probability")):
        panels.append(probabilities)
    labels = list(histories)
    across = min(columns, len(labels))
    bands = [labels[i : i + across] for i in range(0, len(labels), across)]
    figure = Figure(figsize=(0.6 + 2.2 * across, 0.4 + 1.55 * len(panels) * len(bands)), layout="constrained")
    grid = figure.subplots(len(panels) * len(bands), across, squeeze=False)
    for line, (band, shown) in enumerate(product(bands, panels)):
        for column, axes in enumerate(grid[line]):
            if column >= len(band):
                axes.set_axis_off()
                continue
            _panel(axes, histories[band[column]], shown)
            if shown == panels[0]:
                name = textwrap.fill(one_line(band[column]), 28)
                axes.set_title(name, fontsize=9.5, color=INK, loc="left", fontweight="bold", parse_math=False)
            if column == 0:
                what = "token probability" if shown == probabilities else words(shown[0])
                axes.set_ylabel(what, fontsize=9, color=INK, parse_math=False)
            if shown == panels[-1]:
                axes.set_xlabel("step", fontsize=9, color=INK)
    figure.align_ylabels(grid[:, 0])
    if probabilities:
        key = [Line2D([], [], **_FORGOTTEN), Line2D([], [], **_KEPT)]
        names = ["forget set", "retain set"]
        figure.legend(key, names, loc="outside lower right", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    with _any_glyph():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, so that no later drawing moves anything
    return figure


def _panel(axes: Axes, rows: Sequence[Mapping[str, float | None]], shown: Sequence[str]) -> None:
    frame(axes)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.02)
    if len(shown) > 1:
        axes.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
    if not any(_finite(row.get(name)) for row in rows for name in shown):
        axes.text(
            0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", fontsize=9, color=INK, alpha=0.7
        )
        axes.set(xticks=[], yticks=[])
        return
    steps = [row["step"] or 0 for row in rows]
    for name in shown:
        heights = [value if (value := row.get(name)) is not None and math.isfinite(value) else math.nan for row in rows]
        axes.plot(steps, heights, **(_FORGOTTEN if name.startswith("forget") else _KEPT))


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


@contextmanager
def _any_glyph() -> Iterator[None]:
    """SVG holds text as text, so a glyph that matplotlib's own font lacks is no loss there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def svg(figure: Figure, *, title: str = "") -> str:
    """The figure as one `<svg>` element, alone or inside a page: the same text for the same figure.

    Text stays text in the reader's own font; what is drawn in ink follows the color of the text around it.

    Args:
        figure: what `tradeoff` or `history` made.
        title: what the drawing shows, for readers who do not see it.
    """
    buffer = io.StringIO()
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "expunge"}
    with matplotlib.rc_context(settings), _any_glyph():
        figure.savefig(buffer, format="svg", transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for child in [child for child in root if child.tag.endswith("}metadata")]:
        root.remove(child)
    used = set(
        re.findall(r"#([\w-]+)", " ".join(value for element in root.iter() for value in element.attrib.values()))
    )
    for element in root.iter():
        # Without prefixes the element is at home in HTML too; ids that nothing points to would repeat between figures.
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _restyled(v) for name, v in attributes.items() if name != "id" or v in used})
    root.attrib |= {"xmlns": SVG, "role": "img", "aria-label": one_line(title)}
    return ElementTree.tostring(root, encoding="unicode")


def inline(figure: Figure, title: str) -> Markup:
    """The figure as part of a page."""
    # A page knows what <svg> is, so the name of the vocabulary can go: the page then holds no address at all.
    return Markup(svg(figure, title=title).replace(f' xmlns="{SVG}"', "", 1))


def _restyled(value: str) -> str:
    return re.sub(r"(font: [^;']*?px) '[^;]*", rf"\1 sans-serif; {_FONT}", value.replace(INK, "currentColor"))


def save_png(figure: Figure, path: str | Path, *, dpi: int = 200) -> Path:
    """Write the figure as PNG on white, for slides and papers.

    Warns, as matplotlib does, about a glyph that its font lacks and draws as an empty box.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return path
