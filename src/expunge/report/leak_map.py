"""The leak map of an attack: facts as rows, attacks as columns, how much came out above the control as color."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from string import ascii_letters

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from rich.text import Text

from expunge.report.figures import INK, PALETTE
from expunge.report.text import one_line
from expunge.results.attacked import Attacked, Column
from expunge.results.texts import is_hash

FILE = "leak_map.png"
BELOW, ABOVE, MISSING = PALETTE[0], PALETTE[1], "#e4e6e8"
"""Recovery of -1 and of 1, with white between; no value."""
MOST_LABELED = 60
"""Facts whose questions stand beside the drawing."""
LETTER = 0.075
"""Inches of a letter below the drawing, with room to spare."""
TALLEST = 160
"""Facts up to which a row has its full height."""


def shown_columns(found: Attacked) -> list[Column]:
    """The attacks that have a verdict on any fact."""
    return [column for column in found.columns if column.recovery]


def worst_first(found: Attacked) -> list[int]:
    """Facts with a verdict, those that leak most first."""
    return sorted(found.worst, key=lambda fact: -found.worst[fact][1])


def terminal(found: Attacked, facts: Sequence[int], *, width: int) -> Iterator[Text]:
    """The map as lines for a rich console: a letter an attack, a character a cell, the worst of each fact.

    A cell is the recovery in tenths, cut off, where the fact leaks, a dot where it does not, and empty without a value.

    Args:
        found: what the attacks gave.
        facts: which rows, in which order.
        width: columns of text that there are.
    """
    columns = shown_columns(found)
    letters = {column.name: letter for column, letter in zip(columns, ascii_letters, strict=False)}
    gap = " " if 2 * len(letters) + 30 <= width else ""
    legend = "   ".join(f"{letter} {name}".replace(" ", "\0") for name, letter in letters.items())
    yield from (Text(words.replace("\0", " ")) for words in textwrap.wrap(legend, width))
    yield Text(f"fact  {gap.join(letters.values())}  worst   question", style="bold")
    for fact in facts:
        line = Text(f"{fact + 1:>4}  ", no_wrap=True, overflow="ellipsis")
        for i, column in enumerate(columns[: len(letters)]):
            line.append(gap if i else "")
            line.append(*_cell(column, fact))
        name, value = found.worst[fact]
        line.append(f"  {value:.2f} {letters.get(name, '?')}  {_question(found, fact)}")
        yield line


def _cell(column: Column, fact: int) -> tuple[str, str]:
    """What stands in a cell, and its style."""
    value = column.recovery.get(fact)
    if value is None:
        return " ", ""
    if fact not in column.leaking:
        return "·", "dim"
    return str(min(9, int(10 * max(0.0, value)))), f"{INK} on {_mixed('#ffffff', ABOVE, 0.25 + 0.75 * value)}"


def _mixed(low: str, high: str, share: float) -> str:
    pairs = zip(bytes.fromhex(low[1:]), bytes.fromhex(high[1:]), strict=True)
    return "#" + bytes(round(a + (b - a) * share) for a, b in pairs).hex()


def _question(found: Attacked, fact: int) -> str:
    question = found.questions[fact]
    return "" if is_hash(question) else one_line(question)


def leak_map(found: Attacked) -> Figure:
    """The map as a drawing: orange where more came out than of the control, blue where less; leaking cells are dotted.

    Facts that leak most stand on top. Their questions are beside them, where there are at most 60 and the result holds
    texts.
    """
    columns, facts = shown_columns(found), worst_first(found)
    labeled = len(facts) <= MOST_LABELED
    questions = [_question(found, fact) if labeled else "" for fact in facts]
    beside = 3.6 if any(questions) else 0.4
    wide, high = 0.3 * max(len(columns), 4), 0.2 * min(max(len(facts), 3), TALLEST)
    left, right, top = 0.5 + beside, 1.5, 1.5
    compared = f"recovery above the {found.control}" if found.control else "recovery, without a control"
    threshold = columns[0].threshold if columns else 0.0
    untested = "; gray: no value" if any(len(column.recovery) < len(facts) for column in columns) else ""
    told = one_line(f"{found.label}: {compared}; dots: facts that leak (from {threshold:g} on){untested}")
    lines = textwrap.wrap(told, int((left + wide + right) / LETTER))
    bottom = 0.2 + 0.15 * len(lines)
    figure = Figure(figsize=(left + wide + right, top + high + bottom))
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    values = np.full((max(len(facts), 1), max(len(columns), 1)), np.nan)
    for j, column in enumerate(columns):
        for i, fact in enumerate(facts):
            values[i, j] = column.recovery.get(fact, math.nan)
    colors = LinearSegmentedColormap.from_list("recovery", [BELOW, "#ffffff", ABOVE]).with_extremes(bad=MISSING)
    image = axes.imshow(values, cmap=colors, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    leaking = [(j, i) for j, column in enumerate(columns) for i, fact in enumerate(facts) if fact in column.leaking]
    if leaking:
        size = 7 if len(facts) <= TALLEST else 1
        axes.scatter([j for j, _ in leaking], [i for _, i in leaking], s=size, color=INK, linewidths=0)
    axes.set_xticks(range(len(columns)))
    axes.set_xticklabels(
        [column.name for column in columns], rotation=45, ha="left", rotation_mode="anchor", parse_math=False
    )
    axes.xaxis.tick_top()
    named = range(len(facts)) if labeled else range(0, len(facts), math.ceil(len(facts) / MOST_LABELED))
    axes.set_yticks(named)
    labels = [f"{textwrap.shorten(questions[i], 52, placeholder='…')}  {facts[i] + 1}".strip() for i in named]
    axes.set_yticklabels(labels, parse_math=False)
    axes.tick_params(colors=INK, labelsize=7.5, length=0)
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    if labeled:
        axes.set_yticks(np.arange(len(facts) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color=INK, alpha=0.12, linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set(color=INK, alpha=0.3)
    _key(figure, image, (left + wide + 0.35) / width, (bottom + max(0.0, high - 1.6)) / height)
    figure.text(0.1 / width, 0.1 / height, "\n".join(lines), color=INK, fontsize=8, parse_math=False)
    return figure


def _key(figure: Figure, image: ScalarMappable, x: float, y: float) -> None:
    """What the colors mean."""
    width, height = figure.get_size_inches()
    bar = figure.colorbar(image, cax=figure.add_axes((x, y, 0.12 / width, 1.6 / height)), ticks=(-1, -0.5, 0, 0.5, 1))
    bar.ax.tick_params(colors=INK, labelsize=7.5, length=2)
    bar.outline.set(edgecolor=INK, alpha=0.3)
