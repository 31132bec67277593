"""Curves: forgetting against retention along a run, one point a model; and several side by side. No torch here.

FS = 1 - ES(forget set), forget strength, and RS = ES(retain set), retain strength, ES being extraction strength: both
are in [0, 1], higher is better.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from expunge.core.checks import ExpungeError, path_of
from expunge.core.manifest import file_digest
from expunge.core.sealed import read_sealed, write_sealed
from expunge.results.measures import Evaluation

Trace = Literal["checkpoints", "mixing"]
FILE, SUMMARIES = "comparison.json", "summaries"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model on a curve."""

    name: str
    """What the model is: `start model`, `step 30`, `alpha 0.35`."""
    at: float = 0.0
    """Where on the curve it is: its step, or its mixing share."""
    forget: tuple[float, ...]
    """Extraction strength on each forget example."""
    retain: tuple[float, ...]
    """Extraction strength on each retain example."""
    paraphrased: tuple[float, ...] = ()
    """Extraction strength on each forget example, asked by the paraphrased question; empty without paraphrases."""
    utility: float | None = None
    """Model utility."""
    log10_quality: float | None = None
    """log10 of forget quality, the p-value against the retain model; None without one."""

    def __post_init__(self) -> None:
        for what in ("forget", "retain", "paraphrased"):
            values = getattr(self, what)
            if (not values and what != "paraphrased") or not all(0 <= value <= 1 for value in values):
                raise ExpungeError(
                    f"'{self.name}' needs an extraction strength between 0 and 1 for every {what} example; "
                    f"got {len(values)} values{', one of them outside' if values else ''}."
                )

    @property
    def fs(self) -> float:
        """Forget strength."""
        return 1 - math.fsum(self.forget) / len(self.forget)

    @property
    def rs(self) -> float:
        """Retain strength."""
        return math.fsum(self.retain) / len(self.retain)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The points of one run in the order of the run; the first is the start model."""

    label: str
    """What the run is called."""
    group: str
    """What it shares with the runs that differ from it by their seed only."""
    trace: Trace
    """`checkpoints` of the run, or `mixing` of the weights of start and unlearned model."""
    points: tuple[Point, ...]
    seed: int | None = None
    calibrated: Point | None = None
    """For `mixing`: the mixture that keeps just enough retain strength. It is no point of the curve, since curves are
    compared with the same number of points."""

    def __post_init__(self) -> None:
        if not self.points:
            raise ExpungeError(f"the curve '{self.label}' has no point; its first must be the start model.")
        for what in ("forget", "retain"):
            sizes = sorted({len(getattr(point, what)) for point in self.points})
            if len(sizes) > 1:
                raise ExpungeError(
                    f"the points of '{self.label}' were measured on unlike {what} sets, of {sizes} examples."
                )

    @property
    def path(self) -> tuple[tuple[float, float], ...]:
        """(FS, RS) of each point."""
        return tuple((point.fs, point.rs) for point in self.points)

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        return write_sealed(Path(path), asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Curve":
        """Read what `save` wrote."""
        return cls.from_json(_read(path))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Curve":
        """The curve with these fields."""
        points = tuple(_point(fields) for fields in content["points"])
        chosen = content["calibrated"]
        return cls(**{**content, "points": points, "calibrated": _point(chosen) if chosen else None})


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs from one start model side by side."""

    curves: tuple[Curve, ...]
    evaluations: tuple[Evaluation, ...]
    """Start model, retain model where there is one, then one per group of seeds: its summary measures."""
    start: Point
    retain: Point | None
    front: tuple[tuple[str, str], ...]
    """(run, point) of every model that no other one beats in both strengths, by rising forget strength."""
    notes: tuple[str, ...] = ()
    """What a reader must know: how curves were traced, what keeps them from being compared."""
    about: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, label: str) -> Evaluation:
        """The summary of a group, of the start or of the retain model."""
        for evaluation in self.evaluations:
            if evaluation.label == label:
                return evaluation
        raise KeyError(f"no '{label}' in this comparison; it holds {', '.join(e.label for e in self.evaluations)}")

    def save(self, folder: str | Path) -> Path:
        """Write `comparison.json` with the curves, and an evaluation of each summary, into a folder."""
        folder = Path(folder)
        (folder / FILE).unlink(missing_ok=True)  # a kill leaves no mixture of two comparisons
        shutil.rmtree(folder / SUMMARIES, ignore_errors=True)
        content = {
            "curves": [asdict(curve) for curve in self.curves],
            "start": asdict(self.start),
            "retain": asdict(self.retain) if self.retain else None,
            "front": self.front,
            "notes": self.notes,
            "about": self.about,
            "evaluations": {
                path.name: file_digest(path)
                for path in (e.save(folder / SUMMARIES / f"{i}.json") for i, e in enumerate(self.evaluations))
            },
        }
        return write_sealed(folder / FILE, content)

    @classmethod
    def load(cls, folder: str | Path) -> "Comparison":
        """Read what `save` wrote.

        Raises:
            ExpungeError: there is none, or a file of it was changed since.
        """
        folder = path_of("folder", folder)
        content = _read(folder / FILE)
        for name, digest in content["evaluations"].items():
            path = folder / SUMMARIES / name
            if not path.is_file() or file_digest(path) != digest:
                raise ExpungeError(f"{path} is not the one of this comparison: it is missing, or was changed since.")
        return cls(
            curves=tuple(Curve.from_json(curve) for curve in content["curves"]),
            evaluations=tuple(Evaluation.load(folder / SUMMARIES / name) for name in content["evaluations"]),
            start=_point(content["start"]),
            retain=_point(content["retain"]) if content["retain"] else None,
            front=tuple((run, name) for run, name in content["front"]),
            notes=tuple(content["notes"]),
            about=content["about"],
        )


def _point(fields: Mapping[str, Any]) -> Point:
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return Point(**{**fields, **lists})


def _read(path: str | Path) -> dict[str, Any]:
    path, cure = path_of("path", path), "Make some: expunge compare runs/*"
    if not path.is_file():
        raise ExpungeError(f"no curve at {path}. {cure}")
    return read_sealed(path, "a curve", cure)
