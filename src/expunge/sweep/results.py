"""What a study found: its trials, grouped by recipe over seeds, the best, and those that no other one beats."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError
from expunge.core.format import number
from expunge.core.json_text import read_object
from expunge.core.surface import words
from expunge.report.study_figures import Drawn
from expunge.results.studies import ASKED, TRIAL, finished
from expunge.sweep.objective import Constraint, Objective, Standing, averaged, best, front, standing
from expunge.sweep.places import START, STUDY, mask_file, write_again
from expunge.sweep.space import SEED, Point, recipe
from expunge.sweep.workers import present

FORMAT = 1
RETAIN = "retain_extraction_strength"
"""Measured of every candidate, and drawn where a study has one objective and no constraint."""


@dataclass(frozen=True)
class Trial:
    """A trial that came to its end."""

    folder: Path
    told: Mapping[str, Any]
    """What its `trial.json` holds."""

    @property
    def number(self) -> int:
        """Its number in the study."""
        return int(self.told["number"])

    @property
    def state(self) -> str:
        """`finished`, `pruned` or `failed`."""
        return str(self.told["state"])

    @property
    def point(self) -> Point:
        """What it tried."""
        return dict(self.told["point"])

    @property
    def standing(self) -> Standing | None:
        """How good its best candidate is; None where it failed."""
        good = self.told["standing"]
        return None if good is None else Standing(good["violation"], tuple(good["losses"]))

    @property
    def measures(self) -> dict[str, float]:
        """Of its best candidate."""
        return numbers(self.told.get("measures", {}))

    @property
    def candidates(self) -> list[tuple[int, dict[str, float]]]:
        """The step of each candidate, with its measures."""
        return [(one["step"], numbers(one["measures"])) for one in self.told.get("candidates", [])]

    @property
    def model(self) -> Path | None:
        """The folder of its best candidate."""
        return self.folder / self.told["model"] if "model" in self.told else None


@dataclass(frozen=True)
class Group:
    """Trials that differ by their seed alone."""

    trials: tuple[Trial, ...]

    @property
    def point(self) -> Point:
        """What they have in common."""
        return {name: value for name, value in self.trials[0].point.items() if name != SEED}

    @property
    def standing(self) -> Standing:
        """The mean over seeds."""
        return averaged([trial.standing for trial in self.trials if trial.standing is not None])

    def over_seeds(self, measure: str) -> tuple[float, float | None]:
        """Mean of a measure, and its standard deviation (with n - 1) where there are two seeds or more."""
        values = [trial.measures[measure] for trial in self.trials]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Studied:
    """A study as far as it has come."""

    folder: Path
    asked: Mapping[str, Any]
    start: Mapping[str, float]
    """Measures of the start model."""
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    trials: tuple[Trial, ...]
    """Those that came to their end, by number."""

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Trials by recipe, the best first; those that failed are left out."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.standing is not None:
                found.setdefault(recipe(trial.point), []).append(trial)
        groups = [Group(tuple(trials)) for trials in found.values()]
        return tuple(sorted(groups, key=lambda group: (group.standing.order, group.trials[0].number)))

    @property
    def best(self) -> Trial | None:
        """The best trial of the best recipe; None before any is finished."""
        if not self.groups:
            return None
        trials = self.groups[0].trials
        return trials[best([trial.standing for trial in trials if trial.standing is not None])]

    @property
    def front(self) -> list[tuple[Trial, int, dict[str, float]]]:
        """Candidates of all trials that keep the constraints and that no other one beats: trial, step, measures."""
        known = self.candidates
        return [known[i] for i in front([self.standing(measures) for _, _, measures in known])]

    @property
    def candidates(self) -> list[tuple[Trial, int, dict[str, float]]]:
        """Candidates of all trials: trial, step, measures."""
        return [(trial, step, measures) for trial in self.trials for step, measures in trial.candidates]

    def standing(self, measures: Mapping[str, float]) -> Standing:
        """How good a candidate with these measures is."""
        return standing(measures, self.start, self.objectives, self.constraints)

    @property
    def names(self) -> list[str]:
        """The measures that are looked at: objectives, then constraints."""
        return list(dict.fromkeys([*(o.measure for o in self.objectives), *(c.measure for c in self.constraints)]))

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]:
        """Header, rows and numeric columns: a row for each recipe, best first, and for the start model."""
        points = [name for name in self.asked["search"] if any(name in group.point for group in self.groups)]
        header = ("trials", *points, *self.names, "constraint")
        rows = [("start", *("-" for _ in points), *(number(self.start.get(n, math.nan)) for n in self.names), "-")]
        for group in self.groups:
            numbers = ", ".join(str(trial.number) for trial in group.trials)
            cells = [_shown(group.point.get(name)) for name in points]
            rows.append((numbers, *cells, *(_mean(*group.over_seeds(n)) for n in self.names), _kept(group.standing)))
        return header, rows, tuple(range(1 + len(points), len(header) - 1))

    def as_json(self) -> dict[str, Any]:
        """All of it, as `study.json` holds it."""
        top = self.best
        return {
            "format": FORMAT,
            "id": self.asked["id"],
            "asked": dict(self.asked),
            "objectives": [str(one) for one in self.objectives],
            "constraints": [str(one) for one in self.constraints],
            "start": finite(self.start),
            "trials": [dict(trial.told) for trial in self.trials],
            "recipes": [
                {
                    "point": group.point,
                    "trials": [trial.number for trial in group.trials],
                    "feasible": group.standing.feasible,
                    "mean": finite({name: group.over_seeds(name)[0] for name in group.trials[0].measures}),
                    "std": {name: group.over_seeds(name)[1] for name in group.trials[0].measures},
                }
                for group in self.groups
            ],
            "best": None if top is None else {"trial": top.number, "model": str(top.model), "point": top.point},
            "front": [{"trial": trial.number, "step": step} for trial, step, _ in self.front],
        }

    def save(self, worker: str) -> Path:
        """Write `study.json`.

        Args:
            worker: names the file that is written aside.
        """
        write_again(self.folder / STUDY, self.as_json(), worker)
        return self.folder / STUDY

    def command(self, trial: Trial) -> str | None:
        """The command that makes a trial's run again; None for a study that was begun from Python."""
        if not self.asked["command_line"]:
            return None
        settings = {**self.asked["settings"], **trial.told["settings"]}
        if isinstance(settings.get("mask"), Mapping):
            settings["mask"] = str(mask_file(self.folder, settings["mask"]))
        if trial.told["step"] != trial.told["steps"]:
            settings |= {"checkpoint_every": self.asked["every"], "keep_checkpoints": 0}
        return f"expunge unlearn {words({**settings, 'output': f'runs/{self.folder.name}-best'})}"

    def drawn(self) -> Drawn:
        """What drawings show: trials, and candidates between two objectives, or the objective and a constraint."""
        trials = [trial for trial in self.trials if trial.standing is not None]
        first, *others = self.objectives
        second = others[0].measure if others else next((c.measure for c in self.constraints), RETAIN)
        candidates = [measures for _, _, measures in self.candidates]
        good = [self.standing(measures) for measures in candidates]
        return Drawn(
            trials=[{name: _number(value) for name, value in trial.point.items()} for trial in trials],
            values=[trial.measures[first.measure] for trial in trials],
            feasible=[trial.standing is not None and trial.standing.feasible for trial in trials],
            objective=str(first),
            better_low=first.direction != "maximize",
            candidates=[
                (measures[first.measure], measures[second], found.feasible)
                for measures, found in zip(candidates, good, strict=True)
            ],
            front=front(good),
            axes=(first.measure, second),
        )

    def running(self) -> list[dict[str, Any]]:
        """What each worker does now, by its last sign of life."""
        return present(self.folder)


def load_studied(folder: str | Path) -> Studied:
    """What is in the folder of a study.

    Raises:
        ExpungeError: it is none, or the start model was not measured yet.
    """
    folder = Path(folder)
    if not (folder / ASKED).is_file():
        raise ExpungeError(f"no study in {folder}: it holds no {ASKED}. Begin one: expunge sweep study.yaml")
    asked = read_object(folder / ASKED)
    if asked.get("format") != FORMAT:
        raise ExpungeError(
            f"the study in {folder} has the format {asked.get('format')!r}; this version reads {FORMAT}."
        )
    if not (folder / START).is_file():
        raise ExpungeError(f"the study in {folder} has only begun: the start model is not measured yet.")
    start = read_object(folder / START)
    return Studied(
        folder,
        asked,
        numbers(start["measures"]),
        tuple(Objective(**one) for one in start["objectives"]),
        tuple(Constraint(**one) for one in asked["constraints"]),
        tuple(Trial(path, read_object(path / TRIAL)) for _, path in finished(folder)),
    )


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON holds them: what is none becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """The same as numbers again: null becomes NaN."""
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    """Text that is a number as one, for a scale."""
    try:
        return float(value)
    except ValueError:
        return value


def _mean(mean: float, deviation: float | None) -> str:
    return number(mean) if deviation is None else f"{number(mean)} ± {number(deviation)}"


def _shown(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else number(float(value))


def _kept(good: Standing) -> str:
    return "kept" if good.feasible else f"broken by {number(good.violation)}"
