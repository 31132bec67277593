"""What the command line says: results on stdout, warnings on stderr; plain lines without a terminal.

Everything that is said goes through here (progress: core/progress.py), and what models, data, files and their names
could make a terminal do is made visible instead.
"""

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO

from expunge.core.format import legible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult


def say(text: str = "") -> None:
    """A line of results."""
    print(legible(text), flush=True)


def complain(text: str) -> None:
    """A line about something wrong, on stderr."""
    print(legible(text), file=sys.stderr, flush=True)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show Python's warnings as lines `warning: ...`, without the line of code that gave them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: Any = None,
    ) -> None:
        complain(f"warning: {message}")

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> None:
    """Print rows in columns; the last column takes what width is left.

    Args:
        header: one word a column.
        rows: cells as text; markup in them is shown as it is.
        numeric: columns that are set flush right.
    """
    from expunge.core.format import columns, drawn_table

    if sys.stdout.isatty():
        draw(drawn_table(header, rows, numeric=numeric))
    else:
        say("\n".join(columns(header, rows, numeric=numeric)))


def heading(text: str) -> None:
    """A line above a group of lines."""
    say()
    if sys.stdout.isatty():
        from rich.text import Text

        draw(Text(text, style="bold"))
    else:
        say(text)


@dataclass(frozen=True)
class _Legible:
    """Something that rich can draw, with the text in it made legible."""

    inner: "RenderableType"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import Segment

        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(legible(segment.text), segment.style)


def draw(renderable: "RenderableType") -> None:
    """Something that rich can draw; as wide as it needs where there is no terminal."""
    from rich.console import Console

    from expunge.core.format import UNBOUNDED

    (Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)).print(_Legible(renderable))


@contextmanager
def redrawn() -> "Iterator[Callable[[RenderableType], None]]":
    """Draw something in place of what was drawn before, on a terminal; the last drawing stays."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        yield lambda renderable: live.update(_Legible(renderable), refresh=True)


def draw_split(renderable: "RenderableType") -> None:
    """Something that cuts itself at the width there is: of the terminal, else of COLUMNS, else 80."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(_Legible(renderable))
        return
    text = StringIO()
    Console(file=text, width=shutil.get_terminal_size().columns, color_system=None).print(_Legible(renderable))
    say("\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n")))
