"""Whole experiments as short readable files: `tdec.py` holds the function `tdec`, and what belongs to it.

An experiment is a function of a `folder` and keyword-only settings, whose types, defaults and sentences under `Args:`
are all that the command line needs to know. Four names are filled in for it: `corpus` from the data settings,
`overwrite` from the flag, `progress` from the terminal, and `folder` from `output`. It writes its files, and returns
what it found as a `Result`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Table:
    """Something found, as text in rows and columns."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int] = ()
    """Columns that are set flush right."""
    title: str = ""


@runtime_checkable
class Result(Protocol):
    """What an experiment found, and how it is shown."""

    @property
    def folder(self) -> Path:
        """Where its files are."""

    def tables(self) -> Sequence[Any]:
        """Each a `Table`, or anything else that rich can draw."""

    def text(self) -> str:
        """What a reader must know about the tables, and which files there are."""
