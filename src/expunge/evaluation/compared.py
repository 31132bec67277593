"""Side by side: curves that were traced, summed up in one comparison."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from expunge.core.checks import ExpungeError
from expunge.core.curve import Comparison, Curve, Point
from expunge.core.results import Evaluation, Measure
from expunge.evaluation.tradeoff import BOUNDS, measures, over_seeds, pareto, summary

START, RETAIN = "start model", "retain model"
FEWEST_CHECKPOINTS = 10
"""Fewer points than these make a curve coarse."""
CALIBRATION_LEVEL = 0.95


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
            "expunge unlearn ... keep_checkpoints=0 checkpoint_every=0.5"
        )
    if retain is None and all(point.log10_quality is None for curve in curves for point in curve.points):
        notes.append(
            "No retain model was given, so there is no forget quality and no MU95: --retain <model or records>"
        )
    return notes
