"""The ledger: records of one model line, each of which holds the digest of the one before."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.core.checks import ExpungeError, path_of
from expunge.record.statement import FILE, Statement, read_statement

State = Literal["first", "holds", "broken"]
_UNREADABLE: Mapping[str, Any] = {
    "subject": [],
    "predicate": {
        "date": "?",
        "request": {"id": "?"},
        "verdict": {"text": "?"},
        "lineage": {"predecessor": None},
    },
}


@dataclass(frozen=True)
class Entry:
    """One record of a ledger."""

    folder: Path
    """The run folder that holds it."""
    statement: Statement
    state: State
    """`first`: it names no predecessor. `holds`: its predecessor is here, unchanged. `broken`: it is not."""

    @property
    def sound(self) -> bool:
        """Is the record as it was written, and its predecessor here?"""
        return not self.statement.fault and self.state != "broken"


def summary(statement: Statement, folder: Path) -> dict[str, Any]:
    """What the next record of the line says of this one, which is in a run folder; `requests` are all so far."""
    told, before = statement.predicate, predecessor_of(statement)
    requests = [*(before["requests"] if before is not None else ()), told["request"]["id"]]
    known = {"digest": statement.digest, "run": folder.resolve().name}
    kept = told["utility"].get("kept_since_first", told["utility"]["kept"])
    return {**known, "requests": requests, "verdict": told["verdict"]["text"], "kept": kept}


def day_of(statement: Statement) -> str:
    """The day of a record, which version 1 has with its request."""
    told = statement.predicate
    return str(told["date"] if "date" in told else told["request"]["date"])


def predecessor_of(statement: Statement) -> Mapping[str, Any] | None:
    """What a record says of the one before it; None where it is the first."""
    before: Mapping[str, Any] | None = statement.predicate["lineage"]["predecessor"]
    return before


def ledger(folder: str | Path, *, below: bool = True) -> tuple[Entry, ...]:
    """The records in the run folders of a folder, each after its predecessor, and whether the chain holds.

    Args:
        folder: that holds the run folders.
        below: look at every folder below it, too.

    Raises:
        ExpungeError: the folder is missing.
    """
    folder = path_of("folder", folder)
    if not folder.is_dir():
        raise ExpungeError(f"no folder at '{folder}'. A ledger is a folder of run folders: expunge record list runs")
    files = folder.rglob(FILE) if below else folder.glob(f"*/{FILE}")
    found = {file.parent: _read(file) for file in sorted(files)}
    here = {statement.digest for statement in found.values()}
    return tuple(Entry(place, found[place], _state(found[place], here)) for place in _in_order(found))


def _read(file: Path) -> Statement:
    try:
        found = read_statement(file)
        told, before = found.predicate, predecessor_of(found)
        shown = [told["request"]["id"], day_of(found), told["verdict"]["text"]]
        shown += [] if before is None else [before["digest"], before["run"], *before["requests"][-1:]]
        if not all(isinstance(one, str) for one in shown) or (before is not None and not before["requests"]):
            raise TypeError("a field is no text")
    except ExpungeError as error:
        return Statement(_UNREADABLE, file.read_bytes(), str(error))
    except (KeyError, TypeError, AttributeError) as error:
        return Statement(_UNREADABLE, file.read_bytes(), f"its fields are others ({error!r})")
    return found


def _state(statement: Statement, here: Collection[str]) -> State:
    before = predecessor_of(statement)
    return "first" if before is None else "holds" if before["digest"] in here else "broken"


def _in_order(found: Mapping[Path, Statement]) -> list[Path]:
    """Records by date, each after its predecessor."""
    left = sorted(found, key=lambda place: (day_of(found[place]), str(place)))
    ordered: list[Path] = []
    while left:
        waiting = {found[place].digest for place in left}
        ready = (p for p in left if (predecessor_of(found[p]) or {}).get("digest") not in waiting)
        ordered.append(next(ready))  # no record can hold its own digest, so one is always ready
        left.remove(ordered[-1])
    return ordered
