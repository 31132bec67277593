"""How `expunge chat` shows an exchange: side by side on a terminal, as lines of a table elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.cli.console import redrawn, say, table
from expunge.core.format import legible, number, one_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from expunge.chat.chat import Answer, Exchange

NARROWEST = 24
"""Characters of a column; models that do not fit beside each other go below."""
GAP = 2
CUT = 160
"""Characters of such an answer where there is no terminal."""
BRIEF = 3
"""Lines of an answer that are shown where one of many forms is asked."""
REDRAWN_EVERY = 1 / 12
"""Seconds."""
GOES_ON = "…"
"""Ends an answer that has not come to its end."""


def on_terminal() -> bool:
    """Does someone type and read?"""
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextmanager
def watched(*, brief: bool = False) -> "Iterator[Callable[[Exchange], None] | None]":
    """What shows the answers while they are written, on a terminal; None elsewhere.

    Leaving it early, as by Ctrl-C, keeps what is there on the screen.

    Args:
        brief: cut each answer after a few lines.
    """
    if not on_terminal():
        yield None
        return
    latest: Exchange | None = None
    drawn = 0.0

    with redrawn() as update:

        def show(exchange: "Exchange") -> None:
            nonlocal latest, drawn
            latest = exchange
            if time.monotonic() - drawn >= REDRAWN_EVERY:
                update(SideBySide(exchange, brief=brief))
                drawn = time.monotonic()

        try:
            yield show
        finally:
            if latest is not None:
                update(SideBySide(latest, brief=brief))


def show_lines(exchange: "Exchange", *, brief: bool = False) -> None:
    """An exchange as plain text: the prompt, the known answer, and a line an answer.

    Args:
        exchange: to show.
        brief: cut each answer, and say how to see it whole.
    """
    most = CUT if brief else None
    say(f"> {one_line(exchange.prompt)}")
    for line in _given(exchange):
        say(line)
    rows = [
        {"way": way, "model": name, "p": _probability(answers[i]), "answer": _cut(one_line(_written(answers[i])), most)}
        for i, way in enumerate(exchange.ways)
        for name, answers in exchange.answers.items()
    ]
    header = [column for column in rows[0] if any(row[column] for row in rows)]
    table(header, [[row[column] for column in header] for row in rows])
    if most is not None and any(len(one_line(_written(a))) > most for of in exchange.answers.values() for a in of):
        say(f"Answers are cut after {most} characters. One form in full: /attack {exchange.ways[1]}")


def summary(exchange: "Exchange") -> str:
    """Under which form the first model gives the known answer most; empty without a known answer."""
    name, answers = next(iter(exchange.answers.items()))
    chances = [answer.probability for answer in answers]
    if len(chances) < 2 or chances[0] is None or chances[1] is None:
        return ""
    return (
        f"{name}: p of the known answer is {number(chances[0])} as asked, at most {number(chances[1])} otherwise "
        f"({exchange.ways[1]})"
    )


def _given(exchange: "Exchange") -> list[str]:
    """What is said above the answers: the known answer, and how the answers were made to begin."""
    known = [] if exchange.known is None else [f"known answer ({exchange.split}): {one_line(exchange.known)}"]
    return [*known, *([f"answers begin with: {one_line(exchange.prefill)}"] if exchange.prefill else [])]


def _probability(answer: "Answer") -> str:
    return number(answer.probability) if answer.probability is not None else ""


def _written(answer: "Answer") -> str:
    return answer.text if answer.ended else f"{answer.text}{GOES_ON}"


def _cut(text: str, most: int | None) -> str:
    """A text of at most so many characters; None: all of it."""
    return text if most is None or len(text) <= most else text[: most - 1] + GOES_ON


@dataclass(frozen=True)
class SideBySide:
    """The answers of each model in a column of its own, as many columns as fit."""

    exchange: "Exchange"
    brief: bool = False
    """Cut each answer after a few lines."""

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        names = [*self.exchange.answers]
        across = columns_that_fit(len(names), options.max_width)
        for line in _given(self.exchange):
            yield Text(line, style="dim")
        for i, way in enumerate(self.exchange.ways):
            if way:
                put = "" if way.startswith("sample ") else f": {one_line(self.exchange.prompts[i])}"
                yield Text(f"{way}{put}", style="bold cyan", no_wrap=True, overflow="ellipsis")
            for first in range(0, len(names), across):
                if first:
                    yield Text()
                yield self._row(names[first : first + across], i, across, options.max_width)

    def _row(self, names: Sequence[str], way: int, across: int, width: int) -> "Table":
        from rich.table import Table
        from rich.text import Text

        drawn = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
        room = (width - GAP * (across - 1)) // across
        for _ in names:
            drawn.add_column(width=room, overflow="fold")
        answers = [self.exchange.answers[name][way] for name in names]
        drawn.add_row(
            *(
                Text.assemble((legible(name), "bold"), f"  p = {p}" if (p := _probability(answer)) else "")
                for name, answer in zip(names, answers, strict=True)
            )
        )
        drawn.add_row(*(Text(self._text(answer, room)) for answer in answers))
        return drawn

    def _text(self, answer: "Answer", room: int) -> str:
        text = legible(_written(answer))
        if not self.brief:
            return text
        return _cut(one_line(text), BRIEF * room)


def columns_that_fit(models: int, width: int) -> int:
    """How many models stand beside each other, in rows of like length."""
    most = min(models, max(1, (width + GAP) // (NARROWEST + GAP)))
    return math.ceil(models / math.ceil(models / most))
