"""Earlier requests of a model line: which of their rows a new run forgets again, and what attacks drew out of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.format import counted
from expunge.core.manifest import Manifest
from expunge.data.corpus import Example
from expunge.record.scope import read_salt, row_hash, salt_digest
from expunge.record.statement import FILE, Statement, read_statement
from expunge.results.attacked import MERGED, PLAIN, Attacked

CAME_BACK, NOTHING_CAME_BACK, NOT_TESTED = "came back", "nothing came back", "not tested again"
IN_PART = "tested again in part, where nothing came back"


@dataclass(frozen=True)
class Earlier:
    """An earlier request, and where its rows are in the forget set of the new run."""

    request: str
    run: str
    """Name of its run folder."""
    digest: str
    """Of its record."""
    rows: int
    """How many rows it was about, without those of requests before it."""
    facts: tuple[int, ...] = ()
    """Their positions in the forget set of the new run."""
    leaked: tuple[str, ...] = ()
    """Attacks that drew out some of its rows when its record was made."""
    unknown: str = ""
    """Why the positions are not known; empty where they are."""


def earlier_requests(folder: Path | None, examples: Sequence[Example]) -> tuple[Earlier, ...]:
    """The requests of the records that a run stands on, the first one first.

    A row that several requests name belongs to the first of them.

    Args:
        folder: run folder with the latest of these records; None: there is none.
        examples: the forget set of the new run.

    Raises:
        ExpungeError: the salt of one of them is that of another record, or no salt.
    """
    found: list[Earlier] = []
    taken: set[int] = set()
    for place, statement in reversed(list(_line(folder))):
        told, salt = statement.predicate, place.resolve().with_name(f"{place.resolve().name}.salt")
        known: dict[str, Any] = {"request": told["request"]["id"], "run": place.resolve().name}
        known |= {"digest": statement.digest, "leaked": _leaked(told)}
        own = told["scope"]["rows"] - sum(one["here"] for one in told.get("earlier_requests", ()))
        if not salt.is_file():
            found.append(Earlier(**known, rows=own, unknown=f"its salt, {salt.name}, is not beside its run folder"))
            continue
        secret = read_salt(salt)
        if salt_digest(secret) != told["scope"]["salt_sha256"]:
            raise ExpungeError(f"the salt {salt} is not that of the record in {place}. Put the right one there.")
        hashes = set(told["scope"]["hashes"])
        facts = [i for i, one in enumerate(examples) if i not in taken and row_hash(one, secret) in hashes]
        taken |= {*facts}
        found.append(Earlier(**known, rows=own, facts=tuple(facts)))
    return tuple(found)


def _leaked(told: Mapping[str, Any]) -> tuple[str, ...]:
    results = ((one["name"], one["result"]) for one in told["attacks"])
    return tuple(name for name, result in results if isinstance(result, Mapping) and result.get("leaking"))


def _line(folder: Path | None) -> Iterator[tuple[Path, Statement]]:
    """The records from a run folder back to the first one, each found by the start model that its run began with.

    It ends where a record is not here or is no longer the one that the next names; the next one's digest says so.
    """
    expected: str | None = None
    while folder is not None and (folder / FILE).is_file():
        statement = read_statement(folder)
        if statement.fault or expected not in (None, statement.digest):
            return
        yield folder, statement
        before = statement.predicate["lineage"]["predecessor"]
        expected = before["digest"] if before is not None else None
        folder = before_it(folder) if before is not None else None


def before_it(run: Path) -> Path | None:
    """The run folder with the record before that of a run; None where there is none.

    It is what the run began with, or where that is not here any more, the folder of its name beside the run.
    """
    if not (named := Manifest.load(run).results.get("start_model")):
        return None
    place = Path(named) if Path(named).exists() else run.resolve().parent / Path(named).name
    return place if (place / FILE).is_file() else None


def retested(earlier: Sequence[Earlier], attacked: Attacked | None) -> list[dict[str, Any]]:
    """What a record says of each earlier request: how many of its rows were attacked again, and how many leak."""
    columns = [] if attacked is None else [one for one in attacked.columns if one.name not in (PLAIN, MERGED)]
    recovered = {fact for column in columns for fact in column.recovery}
    leaking = {*attacked.leaking} if attacked is not None else set[int]()
    ran = {column.name for column in columns if column.recovery}
    return [_told(one, [fact for fact in one.facts if fact in recovered], leaking, ran) for one in earlier]


def _told(one: Earlier, tested: Sequence[int], leaking: set[int], ran: set[str]) -> dict[str, Any]:
    leak, why = len(leaking.intersection(tested)), one.unknown
    if not why and len(one.facts) < one.rows:
        why = f"{one.rows - len(one.facts)} of its {counted(one.rows, 'row')} are not in the forget set of this run"
    if not why and len(tested) < one.rows:
        why = f"{one.rows - len(tested)} of its {counted(one.rows, 'row')} had no value in any attack"
    if not why and (missing := [name for name in one.leaked if name not in ran and name != PLAIN]):
        why = f"it leaked under {', '.join(missing)} then, and that was not run again"
    return {
        "request": one.request,
        "run": one.run,
        "digest": one.digest,
        "rows": one.rows,
        "here": len(one.facts),
        "tested": len(tested),
        "leaking": leak if tested else NOT_TESTED,
        "status": CAME_BACK if leak else NOTHING_CAME_BACK if not why else IN_PART if tested else NOT_TESTED,
        "note": why,
    }
