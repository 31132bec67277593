"""Compare: run folders in; their curves, summaries and Pareto front out."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from expunge.comparison.areas import BOUNDS, measures, over_seeds, pareto, summary
from expunge.comparison.run_folders import (
    RunFolder,
    check_data,
    check_start,
    corpus_of,
    groups,
    labels,
    opened,
    require_alike,
    require_checkpoints,
    start_of,
)
from expunge.comparison.trace import Measuring, along_mixing
from expunge.core.checkpoints import checkpoints, step
from expunge.core.checks import ExpungeError, require_between
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template
from expunge.evaluation.evaluate import check_same_date
from expunge.models.load import check_model_folder, load_model, load_tokenizer
from expunge.results.curves import Comparison, Curve, Point, Trace
from expunge.results.foreign_logs import load_records
from expunge.results.measures import Evaluation, Measure
from expunge.results.records import Records

START, RETAIN = "start model", "retain model"
FEWEST_CHECKPOINTS = 10
"""Fewer points than these make a curve coarse."""
CALIBRATION_LEVEL = 0.95


MIXTURES = 26
"""Models measured of a run that is traced by mixing, at most."""


def compare(
    runs: str | Path | Sequence[str | Path],
    *,
    corpus: Corpus | None = None,
    start: str | Path | Records | None = None,
    retain: str | Path | Records | None = None,
    trace: Trace = "checkpoints",
    level: float = CALIBRATION_LEVEL,
    tokenizer: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Trace the forgetting and the retention of unlearning runs from one start model, and sum them up.

    Models are measured once: records are kept in the cache by content (weights, data, settings), and those that an
    evaluation left next to a model serve too.

    Args:
        runs: folders that `unlearn` wrote; other folders and files among them, such as the retain model's, are left
            out with a note. Runs that differ by their seed alone become one row of the summary.
        corpus: what models are measured on; None: the data that the first run was made on.
        start: the start model, a folder or id, or records of it; None: the model that the runs began from.
        retain: the retain model, likewise, or another program's log of it; without it there is no forget quality and no
            MU95.
        trace: `checkpoints`: the start model, the checkpoints that the run kept and its last model. `mixing`: mixtures
            of start and unlearned model in steps of 0.05, which needs no checkpoints and gives the direction of the
            change from the course of training; the calibrated mixture comes with it.
        level: share of the start model's retain strength that calibration keeps.
        tokenizer: folder or id; None: that of the first run.
        dtype: type of the weights; `auto`: that of the first run's result.
        device: where models are put.
        trust_remote_code: run code that comes with a model.
        batch_size: rows computed at once; None: as many as fit.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: no runs, a folder that is none, runs of unlike start models or framings, a run without
            checkpoints, data that cannot be found again.

    Source: FS, RS, AUES and MU95: arXiv:2505.16252; mixing and calibration: UWC, arXiv:2406.09179. How the first paper
    traces its curves is not known; here by checkpoints.
    """
    plan = planned(runs, corpus=corpus, start=start, trace=trace, level=level)
    folders, start, first = plan.folders, plan.start, plan.folders[0]
    if dtype == "auto":  # checkpoints hold float32 masters; all models are measured in the type of the results
        dtype = _stored_type(first.path)
    measuring = Measuring(
        tokenizer=load_tokenizer(tokenizer or first.path, trust_remote_code=trust_remote_code),
        corpus=plan.corpus,
        quality=retain is not None,
        paraphrased=trace == "mixing",
        template=Template(**first.manifest.arguments["template"]),
        max_length=first.manifest.arguments["max_length"],
        batch_size=batch_size,
    )

    def load(source: str | Path) -> PreTrainedModel:
        return load_model(source, dtype=dtype, device=device, trust_remote_code=trust_remote_code)

    def records_of(source: str | Path | Records, what: str) -> Records:
        held = _records_at(source)
        if isinstance(held, Records):
            check_data(held, measuring.corpus, what)
            check_same_date(measuring.template.date if measuring.template else None, held, what)
            return held
        return measuring.records(load(held), beside=Path(held), progress=_telling(progress, what, 1)(0, what))

    of_retain, unplaced = None, ""
    if retain is not None:
        retain_records = records_of(retain, RETAIN)
        measuring = replace(measuring, retain=retain_records)
        unplaced = measuring.unplaced(retain_records)
        of_retain = None if unplaced else measuring.point(retain_records, RETAIN)
    start_records = records_of(start, START)
    check_start(folders, start_records)
    of_start = measuring.point(start_records, START)
    shared = groups(folders)
    begun = load(start) if trace == "mixing" and not isinstance(start, Records) else None
    curves = []
    for folder, label in zip(folders, labels(folders), strict=True):
        chosen: Point | None = None
        if begun is not None:
            telling = _telling(progress, label, MIXTURES)
            points, chosen = along_mixing(measuring, begun, load(folder.path), level=level, telling=telling)
        else:
            points = (of_start, *_along_checkpoints(folder, label, measuring, load, progress))
        group, seed = shared[folder.path], folder.manifest.seed
        curves.append(Curve(label=label, group=group, trace=trace, points=points, seed=seed, calibrated=chosen))
    about = {"inputs": start_records.manifest.inputs, "settings": start_records.manifest.arguments}
    found = compared(curves, start=of_start, retain=of_retain, level=level, about=about)
    left_out = [f"Left out, as no runs of unlearn: {', '.join(plan.others)}."] if plan.others else []
    if unplaced:
        left_out.append(f"The retain model serves for forget quality and has no place among the curves. {unplaced}")
    return replace(found, notes=(*found.notes, *left_out))


@dataclass(frozen=True)
class ComparisonPlan:
    """What a comparison works on, known before any model is loaded; the run and its dry run both ask for it."""

    folders: Sequence[RunFolder]
    others: Sequence[str]
    """Paths that are no runs, which are left out."""
    start: str | Path | Records
    corpus: Corpus
    trace: Trace

    @property
    def rows(self) -> list[tuple[str, str, int]]:
        """(run, the row of the summary that it goes into, models measured of it) of each run."""
        shared, names = groups(self.folders), labels(self.folders)
        return [
            (name, shared[f.path], len(_models(f)) if self.trace == "checkpoints" else MIXTURES)
            for name, f in zip(names, self.folders, strict=True)
        ]


def planned(
    runs: str | Path | Sequence[str | Path],
    *,
    corpus: Corpus | None = None,
    start: str | Path | Records | None = None,
    trace: Trace = "checkpoints",
    level: float = CALIBRATION_LEVEL,
) -> ComparisonPlan:
    """Check what `compare` was given, as far as that is possible without a model; arguments as for `compare`."""
    require_between("level", level, 0, 1)
    if corpus is not None:
        check_corpus(corpus)
    if trace not in ("checkpoints", "mixing"):
        raise ExpungeError(f"trace must be checkpoints or mixing; got {trace!r}.")
    folders, others = opened(runs)
    if trace == "checkpoints":
        require_checkpoints(folders)
    require_alike(folders)
    start = start_of(folders) if start is None else start
    if trace == "mixing" and isinstance(_records_at(start), Records):
        raise ExpungeError(f"trace=mixing needs the start model itself, and {_told(start)} are records of it.")
    plan = ComparisonPlan(folders, others, start, corpus if corpus is not None else corpus_of(folders[0]), trace)
    check_source(start, START, plan)
    return plan


def check_source(source: str | Path | Records, what: str, plan: ComparisonPlan) -> None:
    """Raise where a start or retain model is no model, or records of other data or of another start model."""
    held = _records_at(source)
    if not isinstance(held, Records):
        check_model_folder(str(held))
        return
    check_data(held, plan.corpus, what)
    if what == START:
        check_start(plan.folders, held)


def _models(folder: RunFolder) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints that a run kept, then of its last model."""
    last = int(folder.manifest.results["steps"])
    return [*((at, path) for path in checkpoints(folder.path) if (at := step(path)) < last), (last, folder.path)]


def _stored_type(folder: Path) -> str:
    """The type that a result's weights are saved in; `auto` for an adapter alone, which has its start model's."""
    config = folder / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("dtype", "auto") if config.is_file() else "auto"


def _along_checkpoints(
    folder: RunFolder,
    label: str,
    measuring: Measuring,
    load: Callable[[str | Path], PreTrainedModel],
    progress: Progress | None,
) -> Iterator[Point]:
    """The points of the checkpoints that a run kept, then of its last model."""
    models = _models(folder)
    telling = _telling(progress, label, len(models))
    for done, (at, path) in enumerate(models):
        name = f"step {at}"
        yield measuring.point(measuring.records(load(path), beside=path, progress=telling(done, name)), name, float(at))
    if progress is not None:
        progress(label, len(models), len(models), "")


def _telling(progress: Progress | None, what: str, total: int) -> Callable[[int, str], Progress | None]:
    """The progress of measuring one of several models, shown as that of all of them."""

    def telling(done: int, name: str) -> Progress | None:
        if progress is None:
            return None
        return lambda stage, rows, of, _: progress(what, min(done, total), total, f"{name}: {stage} {rows}/{of}")

    return telling


def _records_at(source: str | Path | Records) -> Records | str | Path:
    """Records where the source is some; else the model that it names."""
    if isinstance(source, Records):
        return source
    path = Path(source)
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file() or not path.exists():
        return source
    return load_records(path)


def _told(source: str | Path | Records) -> str:
    return "they" if isinstance(source, Records) else f"those at {source}"


def compared(
    curves: Sequence[Curve],
    *,
    start: Point,
    retain: Point | None = None,
    level: float = CALIBRATION_LEVEL,
    about: dict[str, Any] | None = None,
) -> Comparison:
    """Sum up curves that are there: one evaluation a group of seeds, the Pareto front over all, and notes.

    Args:
        curves: all of one trace and from one start model.
        start: the start model.
        retain: the retain model.
        level: what calibrated models were calibrated to, for the notes.
        about: how they were measured.
    """
    if not curves:
        raise ExpungeError("nothing to compare: no curve was given.")
    found = [Evaluation(summary(start), label=START, suite="tradeoff")]
    if retain is not None:
        found.append(Evaluation(summary(retain), label=RETAIN, suite="tradeoff"))
    groups = list(dict.fromkeys(curve.group for curve in curves))
    for group in groups:
        of_seeds = [measures(curve) for curve in curves if curve.group == group]
        joined: dict[str, Measure] = {
            name: over_seeds([one[name] for one in of_seeds], bounds=BOUNDS[name]) for name in of_seeds[0]
        }
        found.append(Evaluation(joined, label=group, suite="tradeoff"))
    return Comparison(
        curves=tuple(curves),
        evaluations=tuple(found),
        start=start,
        retain=retain,
        front=_front(curves),
        notes=tuple(_notes(curves, retain, level)),
        about=about or {},
    )


def _front(curves: Sequence[Curve]) -> tuple[tuple[str, str], ...]:
    places = [(curve, point) for curve in curves for point in curve.points]
    # The start model begins every curve; it stands on the front once.
    fs, rs = np.array([p.fs for _, p in places]), np.array([p.rs for _, p in places])
    chosen = [places[i] for i in pareto(fs, rs)]
    return tuple((START if point is curve.points[0] else curve.label, point.name) for curve, point in chosen)


def _notes(curves: Sequence[Curve], retain: Point | None, level: float) -> list[str]:
    counts = {curve.label: len(curve.points) for curve in curves}
    if curves[0].trace == "mixing":
        traced = (
            "Curves: mixtures of the weights of start and unlearned model in steps of 0.05. Calibrated: the largest "
            f"mixing share that keeps {100 * level:.3g} % of the start model's retain strength, in steps of 0.01."
        )
    else:
        told = f"{min(counts.values())}" + (f" to {max(counts.values())}" if len(set(counts.values())) > 1 else "")
        traced = f"Curves: the start model, the checkpoints that a run kept and its last model; {told} points."
    notes = [traced]
    if len(set(counts.values())) > 1:
        unlike = ", ".join(f"{label} {n}" for label, n in counts.items())
        notes.append(
            f"The runs have unlike numbers of points ({unlike}), and more points never lower the hypervolume: compare "
            "these areas with care, or trace by mixing."
        )
    if min(counts.values()) <= FEWEST_CHECKPOINTS and curves[0].trace == "checkpoints":
        notes.append(
            f"A curve of fewer than {FEWEST_CHECKPOINTS} checkpoints is coarse. More of them: "
            "expunge unlearn ... keep_checkpoints=0 checkpoint_every=<fewer epochs than now>"
        )
    if retain is None and all(point.log10_quality is None for curve in curves for point in curve.points):
        notes.append(
            "No retain model was given, so there is no forget quality and no MU95: --retain <model or records>"
        )
    return notes
