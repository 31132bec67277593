"""What is in a folder of runs: how far each is, and what was measured of it. Files are read, no model is loaded."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from expunge.core.checkpoints import FOLDER as CHECKPOINTS
from expunge.core.checks import ExpungeError
from expunge.core.lock import check_free
from expunge.core.manifest import FILE as MANIFEST
from expunge.core.manifest import Manifest
from expunge.record.statement import FILE as RECORD
from expunge.record.statement import read_statement
from expunge.results.attacked import load_attacked
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION, FINAL_MODEL, LOG, RESULT, RUNS, attacked_beside, places
from expunge.training.run import HISTORY, read_history

SHOWN = ("forget_extraction_strength", "retain_extraction_strength", "model_utility", "forget_quality")
"""Measures of an evaluation that stand in the list of runs."""
LOSSES = ("forget_loss", "retain_loss")
POINTS = 60
"""Of a loss that are drawn."""
_INSIDE = {CHECKPOINTS, RESULT, FINAL_MODEL}
"""Folders of a run whose manifests are not those of runs of their own."""

State = Literal["running", "unfinished", "finished"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One run, as it is now."""

    name: str
    """Its folder, below the one that is looked at."""
    stage: str
    method: str
    state: State
    """`running`: a process holds its folder. `unfinished`: none does, and `--resume` goes on with it."""
    step: int = 0
    steps: int | None = None
    """Of the whole run; None where it has not begun."""
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Those of its history by name, thinned to `POINTS` at most, in the order of steps."""
    outcome: str = ""
    """What came of it, in a word or two."""
    measured: Mapping[str, float | None] = field(default_factory=dict)
    """Those of `SHOWN` that its evaluation has; empty where there is none."""
    leaking: tuple[int, int] | None = None
    """Facts that leak in at least one attack, of how many; None where it was not attacked."""
    verdict: str = ""
    """Of its erasure record."""
    faults: tuple[str, ...] = ()
    """What lies beside it and cannot be read, and why."""

    def as_json(self) -> dict[str, Any]:
        """The fields, for a page."""
        return asdict(self)


def runs_in(folder: Path) -> list[RunState]:
    """The runs in a folder and below it, by their names; those that are written at this moment as far as they are."""
    found = [_state(place, folder) for place in run_folders(folder)]
    return [state for state in found if state is not None]


def run_folders(folder: Path) -> list[Path]:
    """The run folders in a folder and below it; the folder itself may be one."""
    return sorted(file.parent for file in folder.rglob(MANIFEST) if not _inside_a_run(file, folder))


def evaluated(folder: Path) -> list[Path]:
    """Folders that have an evaluation: run folders, and folders of records that no run folder stands beside."""
    runs = [place for place in run_folders(folder) if _stage(place) in RUNS and _evaluation_at(place)]
    known = {file.resolve() for place in runs if (file := _evaluation_at(place))}
    others = (file for file in sorted(folder.rglob(EVALUATION)) if file.resolve() not in known)
    return [*runs, *(file.parent for file in others if not _inside_a_run(file, folder))]


def _inside_a_run(file: Path, folder: Path) -> bool:
    return bool(_INSIDE.intersection(file.relative_to(folder).parts))


def _state(place: Path, folder: Path) -> RunState | None:
    try:
        manifest = Manifest.load(place)
    except ExpungeError:
        return None  # a manifest of another program, or one that is just being written
    if manifest.stage not in RUNS:
        return None
    rows = _history(place)
    results = manifest.results
    finished = bool(results.get("finished"))
    found: dict[str, Any] = {}
    faults: list[str] = []
    for what, read in (("evaluation", _measured), ("attacks", _leaking), ("record", _verdict)):
        try:
            found |= read(place)
        except (ExpungeError, OSError, ValueError, KeyError, TypeError) as error:  # written by others, or just now
            faults.append(f"{what}: {error}")
    return RunState(
        name=place.relative_to(folder).as_posix(),
        stage=manifest.stage,
        method=str(manifest.arguments.get("method", "")),
        state="finished" if finished else "running" if _held(place) else "unfinished",
        step=int(results.get("steps") or len(rows)),
        steps=results.get("planned_steps") or _planned(rows, manifest),
        losses={name: _thinned([row[name] for row in rows if name in row]) for name in LOSSES},
        outcome=str(results.get("outcome") or ""),
        faults=tuple(faults),
        **found,
    )


def _history(place: Path) -> list[dict[str, float]]:
    """The rows so far; while a run goes on the last one may be half written, and is left out."""
    if (place / HISTORY).is_file():
        return read_history(place / HISTORY)
    if not (place / LOG).is_file():
        return []
    lines = (place / LOG).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _planned(rows: Sequence[Mapping[str, float]], manifest: Manifest) -> int | None:
    """Steps of the whole run, by the share of its epochs that is done."""
    epochs = manifest.arguments.get("epochs")
    if not rows or not rows[-1].get("epoch") or epochs is None:
        return None
    return round(len(rows) * float(epochs) / rows[-1]["epoch"])


def _thinned(values: Sequence[float]) -> list[float]:
    """At most `POINTS` of the values, the last one among them."""
    every = max(1, math.ceil(len(values) / POINTS))
    return list(values[::-1][::every][::-1])


def _held(place: Path) -> bool:
    try:
        check_free(place)
    except ExpungeError:
        return True
    return False


def _evaluation_at(place: Path) -> Path | None:
    return next((path / EVALUATION for path in places(place) if (path / EVALUATION).is_file()), None)


def _measured(place: Path) -> dict[str, Any]:
    file = _evaluation_at(place)
    numbers = _numbers(file, _stamp(file)) if file is not None else {}
    return {"measured": {name: numbers[name] for name in SHOWN if name in numbers}}


def _leaking(place: Path) -> dict[str, Any]:
    file = next(iter(attacked_beside(place)), None)
    return {} if file is None else {"leaking": _leaks(file, _stamp(file))}


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=1024)
def _numbers(file: Path, stamp: tuple[int, int]) -> dict[str, float | None]:
    """Of an evaluation, which holds every row: it is read once, and again when it has changed."""
    return Evaluation.load(file).numbers()


@lru_cache(maxsize=1024)
def _leaks(file: Path, stamp: tuple[int, int]) -> tuple[int, int]:
    found = load_attacked(file)
    return len(found.leaking), len(found.worst)


def _verdict(place: Path) -> dict[str, Any]:
    return {"verdict": read_statement(place).predicate["verdict"]["text"]} if (place / RECORD).is_file() else {}


def _stage(place: Path) -> str | None:
    try:
        return Manifest.load(place).stage
    except ExpungeError:
        return None
