"""What the command line says: results on stdout, warnings on stderr; plain lines without a terminal."""

import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any, TextIO


def say(text: str = "") -> None:
    """A line of results."""
    print(text, flush=True)


def complain(text: str) -> None:
    """A line about something wrong, on stderr."""
    print(text, file=sys.stderr, flush=True)


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
        rows: cells as text, shown as they are.
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
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(text, style="bold"))
    else:
        say(text)


def draw(renderable: object) -> None:
    """Something that rich can draw; as wide as it needs where there is no terminal."""
    from rich.console import Console

    from expunge.core.format import UNBOUNDED

    (Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)).print(renderable)


def draw_split(renderable: object) -> None:
    """Something that cuts itself at the width there is: of the terminal, else of COLUMNS, else 80."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(renderable)
        return
    text = StringIO()
    Console(file=text, width=shutil.get_terminal_size().columns, color_system=None).print(renderable)
    say("\n".join(line.rstrip() for line in text.getvalue().splitlines()))
