"""Evaluations side by side: one row a model, one column a measure; as data, and for terminal, Markdown and HTML."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from expunge.core.checks import unknown
from expunge.core.format import UNBOUNDED
from expunge.report.compared_models import Model, Role, assign_roles
from expunge.report.faults import faulty
from expunge.report.templates import render
from expunge.report.text import direction_text, interval_text, legible, number, one_line, value_text, words
from expunge.results.measures import DEFAULT_AUC, Direction, Evaluation, Measure, lacks_records_of

_GROUP_OF = {
    "forget_": "forget set",
    "retain_": "retain set",
    "model_utility": "utility",
    "aues_": "trade-off",
    "mu95_": "trade-off",
    "calibrated_": "calibrated to equal retention",
    "mia": "membership",
    "privleak": "membership",
    "real_authors_": "real authors",
    "world_facts_": "world facts",
    "": "other",
}
GROUPS = tuple(dict.fromkeys(_GROUP_OF.values()))
_ARROWS = {"lower": "↓", "higher": "↑", "near": "→", "neither": ""}


@dataclass(frozen=True)
class Column:
    """One measure, as far as it is the same for all models."""

    name: str
    """The measure's name; distinguished where it is defined in several ways."""
    group: str
    """What it says something about; one of `GROUPS`, in which order the columns stand."""
    better: Direction | None
    """None where the models' measures do not agree on it; then nothing is marked best."""
    target: float | None
    """The value that `near` measures should have; None where it differs between models."""
    chance: float | None
    """What guessing gives; None where nothing can be guessed, or it differs between models."""
    n: tuple[int, ...]
    """The numbers of examples that the values rest on, each once, ascending."""

    @property
    def words(self) -> str:
        """The name in words."""
        return words(self.name)

    @property
    def title(self) -> str:
        """The name in words below its group's heading, which it does not repeat."""
        return self.words.removeprefix(self.group.removesuffix(" set") + " ")

    @property
    def arrow(self) -> str:
        """Which way is better, as a sign, and what guessing gives."""
        target = number(self.target) if self.target is not None else "target"
        sign = "" if self.better is None else _ARROWS[self.better] + (f" {target}" if self.better == "near" else "")
        return f"{sign} chance {self._chance}".strip() if self._chance else sign

    @property
    def direction(self) -> str:
        """Which way is better, in words, and what guessing gives."""
        known = direction_text(self.better, self.target)
        return f"{known}; chance is {self._chance}" if self._chance else known

    @property
    def _chance(self) -> str:
        """Chance as text; empty where there is none, or the target says it."""
        said = self.better == "near" and self.target == self.chance
        return "" if self.chance is None or said else number(self.chance)


@dataclass(frozen=True)
class Cell:
    """One value as shown."""

    text: str
    """The value with sensible digits; `-` where there is none."""
    value: float | None = None
    interval: tuple[float, float] | None = None
    best: bool = False
    """Best of its column among the models that unlearned and have no fault, its interval apart from all of theirs."""
    mark: str = ""
    """Letter of the note that goes with it."""

    @property
    def interval_text(self) -> str:
        """The interval as shown; empty where there is none."""
        return interval_text(self.interval)


@dataclass(frozen=True)
class Row:
    """One model."""

    label: str
    role: Role
    name: str
    """The label, with the role where the label does not say it."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A comparison, ready to be drawn by any of the renderers below."""

    header: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[tuple[str, str], ...] = ()
    """(letter, text) of each footnote."""

    @property
    def groups(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(group, positions of its columns), in order."""
        found = [(g, tuple(i for i, column in enumerate(self.header) if column.group == g)) for g in GROUPS]
        return tuple((group, places) for group, places in found if places)

    def blocks(self, most: int) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]:
        """The groups packed in order, each block of at most `most` columns; a larger group has one for itself."""
        packed: list[list[tuple[str, tuple[int, ...]]]] = []
        for group in self.groups:
            if packed and sum(len(places) for _, places in [*packed[-1], group]) <= most:
                packed[-1].append(group)
            else:
                packed.append([group])
        return tuple(tuple(block) for block in packed)


def comparison(
    evaluations: Sequence[Evaluation],
    *,
    measures: Sequence[str] | None = None,
    start: str | None = None,
    retain: str | None = None,
) -> Table:
    """One row a model, one column a measure: forget set, retain set, utility, then the others.

    A value that is not available shows `-`, with the reason as a footnote. Best of a column is marked only among models
    without a role and without a fault: the start model keeps most and the retain model forgets best by their nature,
    and a broken model forgets best by being broken. Where its 95 % interval overlaps that of another of them, none is
    marked: the order may be chance.

    Args:
        evaluations: models in the order of rows, after start and retain model where these are named. Labels that
            collide are numbered.
        measures: names to show, in this order within their groups; None shows all.
        start: label of the start model.
        retain: label of the retain model.

    Raises:
        ExpungeError: a measure that no evaluation holds, or a label that none has.
    """
    return table_of(assign_roles(evaluations, start=start, retain=retain), measures)


def table_of(models: Sequence[Model], measures: Sequence[str] | None = None) -> Table:
    """The comparison of models that have their roles already."""
    found = measured(models, measures)
    columns = sorted(
        (_column(name, held) for name, held in found.items()), key=lambda column: GROUPS.index(column.group)
    )
    broken = faulty(models)
    sound = [model for model in models if model.label not in broken]
    winners = {column.name: _best(column, found[column.name], sound) for column in columns}
    letters: dict[str, str] = {}

    def cell(model: Model, column: Column) -> Cell:
        measure = found[column.name].get(model.label)
        note = legible(measure.note) if measure is not None else "Not measured for this model."
        mark = letters.setdefault(note, _letter(len(letters))) if note else ""
        if measure is None:
            return Cell("-", mark=mark)
        return Cell(value_text(measure), measure.value, measure.interval, model.label in winners[column.name], mark)

    rows = [Row(m.label, m.role, m.name, tuple(cell(m, column) for column in columns)) for m in models]
    return Table(tuple(columns), tuple(rows), tuple((letter, note) for note, letter in letters.items()))


def measured(models: Sequence[Model], names: Sequence[str] | None = None) -> dict[str, dict[str, Measure]]:
    """Column name -> label -> measure, in the order of `names`, else of appearance.

    A name that is defined in several ways becomes a column for each: unlike numbers never stand below each other.

    Raises:
        ExpungeError: none of the models has a measure of that name.
    """
    known = dict.fromkeys(name for model in models for name in model.evaluation)
    columns: dict[str, dict[str, Measure]] = {}
    for name in known if names is None else names:
        if name not in known:
            raise unknown("measure in these evaluations", name, known)
        holders = [model for model in models if name in model.evaluation]
        column_of = _apart(name, holders)
        for model in holders:
            measure = model.evaluation[name]
            # What is not available may name another definition than what could: it joins the first column.
            column = column_of.get(measure.definition, next(iter(column_of.values())))
            columns.setdefault(column, {})[model.label] = _of_role(measure, model)
    return columns


def _of_role(measure: Measure, model: Model) -> Measure:
    """A measure of a model in its role: start and retain model are not compared with themselves."""
    if model.role and measure.value is None and lacks_records_of(f"{model.role} model") in measure.note:
        return replace(measure, note=f"This compares with the {model.role} model, which this one is.")
    if model.role == "retain" and DEFAULT_AUC in measure.note:
        told = "This is the retain model; here it is compared with an AUC of 0.5."
        return replace(measure, note=measure.note.replace(DEFAULT_AUC, told))
    return measure


def _apart(name: str, holders: Sequence[Model]) -> dict[str, str]:
    """Definition -> column: the name where all agree, `suite.name` where suites differ, else `name (2)`."""
    valued = [model for model in holders if model.evaluation[name].value is not None]
    suites: dict[str, set[str]] = {}
    for model in valued or holders:
        suites.setdefault(model.evaluation[name].definition, set()).add(model.evaluation.suite)
    if len(suites) == 1:
        return dict.fromkeys(suites, name)
    if len(set().union(*suites.values())) == sum(len(own) for own in suites.values()):
        return {definition: f"{'/'.join(sorted(own))}.{name}" for definition, own in suites.items()}
    return {definition: f"{name} ({number})" for number, definition in enumerate(suites, 1)}


def _column(name: str, by_label: Mapping[str, Measure]) -> Column:
    held = list(by_label.values())
    found = [measure for measure in held if measure.value is not None] or held
    directions = {measure.better for measure in found}
    chances = {measure.details.get("chance") for measure in found}
    targets = {measure.target for measure in found if measure.better == "near" and measure.target is not None}
    return Column(
        name=name,
        group=next(group for prefix, group in _GROUP_OF.items() if name.rpartition(".")[2].startswith(prefix)),
        better=directions.pop() if len(directions) == 1 else None,
        target=targets.pop() if len(targets) == 1 else None,
        chance=chances.pop() if len(chances) == 1 else None,
        n=tuple(sorted({measure.n for measure in found if measure.value is not None})),
    )


def _best(column: Column, by_label: Mapping[str, Measure], models: Sequence[Model]) -> set[str]:
    losses: dict[str, Loss] = {}
    for label, measure in ((m.label, by_label[m.label]) for m in models if not m.role and m.label in by_label):
        if column.better in (None, "neither") or measure.value is None or not math.isfinite(measure.value):
            continue
        losses[label] = loss_of(measure)
    least = min((loss.value for loss in losses.values()), default=0.0)
    best = {label for label, loss in losses.items() if loss.value == least}
    others = [loss for label, loss in losses.items() if label not in best]
    reach = max((losses[label].high for label in best), default=0.0)
    return best if others and all(loss.low > reach for loss in others) else set()


class Loss(NamedTuple):
    """A measure on a scale on which lower is better; where it has no interval, both ends are its value."""

    value: float
    low: float
    high: float


def loss_of(measure: Measure) -> Loss:
    """A measure with a direction and a value, on that scale: for `near` its distance to the target."""
    assert measure.value is not None
    low, high = measure.interval or (measure.value, measure.value)
    if measure.better == "higher":
        return Loss(-measure.value, -high, -low)
    if measure.better == "lower":
        return Loss(measure.value, low, high)
    assert measure.target is not None
    ends = abs(low - measure.target), abs(high - measure.target)
    nearest = 0.0 if low <= measure.target <= high else min(ends)
    return Loss(abs(measure.value - measure.target), nearest, max(ends))


def _letter(index: int) -> str:
    head, tail = divmod(index, 26)
    return (_letter(head - 1) if head else "") + chr(ord("a") + tail)


@dataclass(frozen=True)
class Terminal:
    """A table as rich draws it: in one piece where it fits, else cut between groups, or columns of a wide group."""

    table: Table
    intervals: bool = False
    """Write intervals below the values."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        def fits(places: Sequence[int]) -> bool:
            drawn = self._piece(places)
            return Measurement.get(console, options.update(max_width=UNBOUNDED), drawn).maximum <= options.max_width

        pieces: list[tuple[int, ...]] = [()]
        for _, group in self.table.groups:
            for places in [group] if fits(group) else [(place,) for place in group]:
                if pieces[-1] and not fits((*pieces[-1], *places)):
                    pieces.append(places)
                else:
                    pieces[-1] = (*pieces[-1], *places)
        for piece in pieces:
            yield self._piece(piece)
            yield Text()
        for letter, note in self.table.notes:
            yield Text.assemble((f"{letter}  ", "bold"), one_line(note))

    def _piece(self, places: Sequence[int]) -> RichTable:
        drawn = RichTable(box=None, padding=(0, 2, 0, 0), show_edge=False)
        drawn.add_column("", no_wrap=True)
        headings = [[*self.table.header[place].words.split(), self.table.header[place].arrow] for place in places]
        deepest = max(len(lines) for lines in headings)
        for lines in headings:
            heading = "\n".join([""] * (deepest - len(lines)) + lines)
            drawn.add_column(Text(heading, style="bold"), justify="right", no_wrap=True)
        for row in self.table.rows:
            cells = [self._cell(row.cells[place]) for place in places]
            drawn.add_row(Text(row.name, style="dim" if row.role else ""), *cells)
        return drawn

    def _cell(self, cell: Cell) -> Text:
        text = Text()
        text.append(cell.text, style="bold green" if cell.best else "")
        if cell.mark:
            text.append(f" {cell.mark}", style="dim")
        if self.intervals and cell.interval:
            text.append(f"\n{cell.interval_text}", style="dim")
        return text


def terminal(table: Table, *, intervals: bool = False) -> Terminal:
    """The table for a rich console, with intervals below the values where asked."""
    return Terminal(table, intervals)


def markdown(table: Table) -> str:
    """The table as aligned Markdown that also reads as plain text: values with intervals, best in bold, notes below."""
    head = ["model", *(f"{escape_markdown(column.words)} {column.arrow}".strip() for column in table.header)]
    body = [[escape_markdown(row.name), *(markdown_cell(cell) for cell in row.cells)] for row in table.rows]
    widths = [max(cell_len(line[place]) for line in [head, *body]) for place in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def padded(line: list[str]) -> str:
        space = [" " * (width - cell_len(text)) for width, text in zip(widths, line, strict=True)]
        cells = [line[0] + space[0], *(s + text for s, text in zip(space[1:], line[1:], strict=True))]
        return f"| {' | '.join(cells)} |\n"

    notes = "".join(f"\n[^{letter}]: {escape_markdown(note)}\n" for letter, note in table.notes)
    return "".join(padded(line) for line in [head, rule, *body]) + notes


def markdown_cell(cell: Cell) -> str:
    """One value with its interval and the mark of its note."""
    interval = f" ({cell.interval_text})" if cell.interval else ""
    return (f"**{cell.text}**" if cell.best else cell.text) + interval + (f" [^{cell.mark}]" if cell.mark else "")


def escape_markdown(text: str) -> str:
    """Foreign text on one line, with what Markdown or HTML would read as markup made inert."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*{}\[\]|~]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"\\{found[0]}", plain)


def html(table: Table) -> str:
    """The table as an HTML fragment with all text escaped; its look comes from the page around it.

    A table too wide for a screen becomes several, cut between groups.
    """
    return render("table.html.jinja", table=table)
