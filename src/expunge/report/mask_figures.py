"""Drawings of masks: where they are in the model, and how much they agree."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from expunge.core.checks import ExpungeError
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest
from expunge.core.whole import write_whole
from expunge.masks.mask_fingerprint import KINDS, OUTSIDE, Agreement, Fingerprint, plural
from expunge.report.figures import INK, PALETTE, save_png, svg
from expunge.report.text import one_line
from expunge.results.measures import Evaluation
from expunge.results.places import model_folder

_SHADES = LinearSegmentedColormap.from_list("shares", ["#eef3f8", "#8fb8d8", PALETTE[0], "#0f3558"])
_ON_LIGHT, _ON_DARK = "#101418", "#ffffff"
WRITTEN = 24
"""Most layers whose densities are written into their cells."""


def trained_in(sources: Iterable[Evaluation | str | Path]) -> list[Fingerprint]:
    """Where the masks are that runs were trained with, from their manifests.

    Runs of one mask share a fingerprint, under the names of all of them.

    Args:
        sources: as a report takes them; what is no folder of a masked run, or of its records, adds nothing.
    """
    found: dict[str, tuple[Fingerprint, list[str]]] = {}
    for source in sources:
        if isinstance(source, Evaluation):
            continue
        path = Path(source).resolve()
        folder = path if path.is_dir() else path.parent
        run = model_folder(folder)
        told = Manifest.load(run) if (run / MANIFEST).is_file() else None
        if told is not None and "fingerprint" in told.results.get("mask", {}):
            lies = Fingerprint.from_json(told.results["mask"]["fingerprint"])
            found.setdefault(told.inputs["mask"], (lies, []))[1].append(run.name)
    return [replace(lies, label=", ".join(dict.fromkeys(names))) for lies, names in found.values()]


def fingerprints(prints: Sequence[Fingerprint]) -> Figure:
    """Density of selected weights by layer (downward) and kind of parameter (across), one panel a mask.

    All panels share one scale. Cells that stay empty hold parameters that the mask could not select; a bar to the right
    of each row is the density of the whole layer.

    Args:
        prints: masks of one model, at least one.

    Raises:
        ExpungeError: no mask.
    """
    if not prints:
        raise ExpungeError("a fingerprint needs at least one mask; got none.")
    kinds = [kind for kind in KINDS if any(p.kind == kind for print_ in prints for p in print_.places)]
    layers = sorted({place.layer for print_ in prints for place in print_.places}, key=lambda n: (n == OUTSIDE, n))
    scale = Normalize(0, max(place.density for print_ in prints for place in print_.places) or 1.0)
    across = min(len(prints), max(1, int(10 / (0.5 * len(kinds) + 1.4))))
    down = -(-len(prints) // across)
    # In inches: labels, then for each panel its cells, the layers' bars and a gap; above each two lines of title.
    left, cells, bars, gap, right = 0.75, max(1.1, 0.5 * len(kinds)), 0.45, 0.45, 0.9
    title, below = 0.62, 0.5 if len(kinds) < 7 else 0.8
    height = max(1.3, (0.26 if len(layers) <= WRITTEN else 0.12) * len(layers))
    width = left + across * (cells + bars + gap) + right
    tall = down * (title + height + below)
    figure = Figure(figsize=(width, tall))

    def placed(x: float, y: float, wide: float, high: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + high) / tall, wide / width, high / tall))

    for number, print_ in enumerate(prints):
        row, column = divmod(number, across)
        x, y = left + column * (cells + bars + gap), title + row * (title + height + below)
        axes = placed(x, y, cells, height)
        values = np.full((len(layers), len(kinds)), np.nan)
        for place in print_.places:
            values[layers.index(place.layer), kinds.index(place.kind)] = place.density
        drawn = _cells(axes, values, scale, written=len(layers) <= WRITTEN)
        axes.set_xticks(np.arange(len(kinds)) + 0.5, kinds, rotation=0 if len(kinds) < 7 else 40)
        heads: dict[str, Any] = {"transform": axes.transAxes, "color": INK, "ha": "left", "va": "bottom"}
        lift = 1 + 0.08 / height
        about = f"{_percent(print_.share)} of {plural(print_.unit)}, Gini {print_.gini:.2f}"
        name = one_line(print_.label)
        axes.text(0, lift + 0.17 / height, name, fontsize=9.5, weight="bold", parse_math=False, **heads)
        axes.text(0, lift, about, fontsize=8, **heads)
        names = ["outside" if layer == OUTSIDE else str(layer) for layer in layers]
        axes.set_yticks(np.arange(len(layers)) + 0.5, names if column == 0 else [])
        if column == 0:
            axes.set_ylabel("layer", fontsize=9, color=INK)
        _layer_bars(placed(x + cells + 0.06, y, bars, height), [print_.by("layer").get(n, 0.0) for n in layers], scale)
    bar = figure.colorbar(drawn, cax=placed(width - right + 0.1, title, 0.13, height))
    _key(bar, "weights selected")
    bar.ax.yaxis.set_major_formatter(lambda value, _: _percent(value))
    return figure


def agreement(labels: Sequence[str], found: Sequence[Agreement]) -> Figure:
    """Intersection over union of every two masks, and below it in each cell what random masks of their sizes share.

    Args:
        labels: the masks in the order in which they are drawn.
        found: one agreement for each two of them.

    Raises:
        ExpungeError: fewer than two masks.
    """
    if len(labels) < 2:
        raise ExpungeError(f"an overlap needs two masks or more; got {len(labels)}.")
    n = len(labels)
    cells, expected = np.full((n, n), np.nan), np.full((n, n), np.nan)
    for pair in found:
        i, j = sorted((labels.index(pair.one), labels.index(pair.other)))
        cells[j, i], expected[j, i] = pair.iou, pair.expected_iou
    figure = Figure(figsize=(1.9 + 0.72 * n, 1.2 + 0.56 * n), layout="constrained")
    axes = figure.subplots()
    drawn = _cells(axes, cells[1:, :-1], Normalize(0, 1), below=expected[1:, :-1])
    names = [one_line(label) for label in labels]
    axes.set_xticks(np.arange(n - 1) + 0.5, names[:-1], rotation=30, ha="right")
    axes.set_yticks(np.arange(n - 1) + 0.5, names[1:])
    for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        text.set_parse_math(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=25)
    _key(bar, "intersection over union\n(in brackets: random masks)")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, so that no later drawing moves anything
    return figure


def save(figure: Figure, path: str | Path, *, title: str) -> Path:
    """Write a drawing as `.svg` or `.png`, as its path ends.

    Raises:
        ExpungeError: another ending.
    """
    path = Path(path)
    if path.suffix == ".png":
        return save_png(figure, path)
    if path.suffix != ".svg":
        raise ExpungeError(f"a drawing ends in .svg or .png; got {path.name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, svg(figure, title=title))
    return path


def _cells(
    axes: Axes, cells: np.ndarray, scale: Normalize, *, written: bool = True, below: np.ndarray | None = None
) -> ScalarMappable:
    axes.patch.set_alpha(0)
    drawn = axes.pcolormesh(np.ma.masked_invalid(cells), cmap=_SHADES, norm=scale, edgecolors="white", linewidth=1.2)
    axes.set(xlim=(0, cells.shape[1]), ylim=(cells.shape[0], 0))
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(cells):
        if not written or math.isnan(value):
            continue
        share = "<1" if 0 < value < 0.005 else f"{100 * value:.0f}"
        text = share if below is None else f"{value:.2f}\n({below[row, column]:.2f})"
        color = _ON_DARK if scale(value) > 0.55 else _ON_LIGHT
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5, color=color)
    return drawn


def _layer_bars(axes: Axes, densities: Sequence[float], scale: Normalize) -> None:
    axes.patch.set_alpha(0)
    axes.barh(np.arange(len(densities)) + 0.5, densities, height=0.7, color=PALETTE[5])
    axes.set(xlim=(scale.vmin, scale.vmax), ylim=(len(densities), 0), yticks=[], xticks=[])
    axes.set_xlabel("all", fontsize=8, color=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set(color=INK, alpha=0.4)


def _key(bar: Colorbar, label: str) -> None:
    bar.ax.tick_params(colors=INK, labelsize=8, length=2)
    bar.set_label(label, fontsize=9, color=INK)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
