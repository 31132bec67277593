"""Compare: run folders in; their curves, summaries and Pareto front out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from expunge.comparison.areas import BOUNDS, measures, over_seeds, pareto, summary
from expunge.comparison.plan import (
    CALIBRATION_LEVEL,
    MIXTURES,
    RETAIN,
    START,
    Load,
    models_of,
    opened_source,
    planned,
)
from expunge.comparison.run_folders import RunFolder, check_data, check_start
from expunge.comparison.trace import Measuring, along_mixing
from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.evaluation.evaluate import check_same_date
from expunge.results.curves import Comparison, Curve, Point, Trace
from expunge.results.measures import Evaluation, Measure
from expunge.results.records import Records

FEWEST_CHECKPOINTS = 10
"""Fewer points than these make a curve coarse."""


def compare(
    runs: str | Path | Sequence[str | Path],
    *,
    corpus: Corpus | None = None,
    start: str | Path | Records | None = None,
    retain: str | Path | Records | None = None,
    trace: Trace = "checkpoints",
    level: float = CALIBRATION_LEVEL,
    rows: int | None = None,
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
            out with a note. Runs of one recipe (all but the seeds, that of the mask's making too) become one row of the
            summary.
        corpus: what models are measured on; None: the data that the first run was made on.
        start: the start model, a folder or id, or records of it; None: the model that the runs began from.
        retain: the retain model, likewise, or another program's log of it; without it there is no forget quality and no
            MU95.
        trace: `checkpoints`: the start model, the checkpoints that the run kept and its last model. `mixing`: mixtures
            of start and unlearned model in steps of 0.05, which needs no checkpoints and gives the direction of the
            change from the course of training; the calibrated mixture comes with it.
        level: share of the start model's retain strength that calibration keeps.
        rows: measure on at most so many rows of each set, evenly spaced; None: on all.
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
    plan = planned(runs, corpus=corpus, start=start, trace=trace, level=level, rows=rows)
    folders, start = plan.folders, plan.start
    load = plan.loader(dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    measuring = plan.measuring(
        quality=retain is not None, tokenizer=tokenizer, trust_remote_code=trust_remote_code, batch_size=batch_size
    )

    def records_of(source: str | Path | Records, what: str) -> Records:
        held = opened_source(source)
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
    begun = load(start) if trace == "mixing" and not isinstance(start, Records) else None
    curves = []
    for folder, label, group in plan.named:
        chosen: Point | None = None
        if begun is not None:
            telling = _telling(progress, label, MIXTURES)
            points, chosen = along_mixing(measuring, begun, load(folder.path), level=level, telling=telling)
        else:
            points = (of_start, *_along_checkpoints(folder, label, measuring, load, progress))
        seed = folder.manifest.seed
        curves.append(Curve(label=label, group=group, trace=trace, points=points, seed=seed, calibrated=chosen))
    about = {"inputs": start_records.manifest.inputs, "settings": start_records.manifest.arguments}
    found = compared(curves, start=of_start, retain=of_retain, level=level, about=about)
    left_out = [f"Left out, as no runs of unlearn: {', '.join(plan.others)}."] if plan.others else []
    if unplaced:
        left_out.append(f"The retain model serves for forget quality and has no place among the curves. {unplaced}")
    return replace(found, notes=(*found.notes, *left_out))


def _along_checkpoints(
    folder: RunFolder,
    label: str,
    measuring: Measuring,
    load: Load,
    progress: Progress | None,
) -> Iterator[Point]:
    """The points of the checkpoints that a run kept, then of its last model."""
    models = models_of(folder)
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
