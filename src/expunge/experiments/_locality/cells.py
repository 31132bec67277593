"""One cell of the experiment: a method unlearns in one place of one start model."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expunge.comparison.areas import measures
from expunge.core.checkpoints import checkpoints, step
from expunge.experiments._folder import write
from expunge.experiments._locality.protocol import OTHER_SEED, Bench
from expunge.experiments._locality.teaching import Taught, strength_relearned
from expunge.localize.localize import localize
from expunge.masks.agreement import recovery
from expunge.masks.mask import Mask
from expunge.masks.mask_fingerprint import Recovery
from expunge.models.load import load_model
from expunge.results.curves import Curve
from expunge.results.robustness import resistance
from expunge.training.unlearn import unlearn

MEASURES = ("aues_hypervolume", "aues_trapezoid", "mu95_best", "mu95_interpolated", "resistance")
"""What a cell comes to. `resistance` is R of the relearning attack, from extraction strength."""


@dataclass(frozen=True)
class Cell:
    """What unlearning with one method in one place of one start model came to."""

    method: str
    place: str
    seed: int
    curve: Curve
    relearned: float
    """Extraction strength of the last model on the forget set after the relearning attack."""

    def values(self, taught: Taught) -> dict[str, float]:
        """Its measures; those that are not available are left out.

        Args:
            taught: about the start model of this seed, for how fast a model relearns that never knew.
        """
        of_curve = measures(self.curve)
        found = {name: of_curve[name].value for name in MEASURES if name in of_curve}
        before = 1 - self.curve.points[-1].fs
        found["resistance"] = resistance((before, self.relearned), (taught.never_knew, taught.never_knew_relearned))
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Cell":
        """Read what `save` wrote."""
        content: dict[str, Any] = json.loads(path.read_text())
        return cls(**{**content, "curve": Curve.from_json(content["curve"])})


def unlearned_in(bench: Bench, start: Path, method: str, place: str, mask: Mask, seed: int, run: Path) -> Cell:
    """Unlearn in one place, trace the run, and let the result relearn.

    Args:
        bench: what all steps share.
        start: folder of the start model.
        method: unlearning method.
        place: what the place is called.
        mask: the place.
        seed: of the data order and the pairing.
        run: folder for model and checkpoints; a run that was stopped in it goes on.
    """
    group = f"{method}, {place}"
    what = f"seed {seed}: {group}"
    made = unlearn(
        load_model(start),
        bench.tokenizer,
        bench.corpus,
        method=method,
        mask=mask,
        output_dir=run,
        resume=run.is_dir(),
        keep_checkpoints=0,
        seed=seed,
        progress=bench.named(what),
        **bench.protocol.unlearning_with(method),
    )
    last = int(made.manifest.results["steps"])
    kept = {step(path): path for path in checkpoints(run)} | {last: run}
    points = [bench.point(start, "start model")]
    for at, path in sorted(kept.items()):
        points.append(bench.point(path, f"step {at}", float(at)))
        if bench.progress is not None:
            bench.progress(f"{what}, measured", len(points) - 1, len(kept), "")
    relearned = strength_relearned(bench, load_model(run), seed)
    label, traced = f"{group}, seed {seed}", tuple(points)
    return Cell(
        method, place, seed, Curve(label=label, group=group, trace="checkpoints", points=traced, seed=seed), relearned
    )


def selected(bench: Bench, start: Path, attributions: tuple[str, ...], seed: int) -> dict[str, Mask]:
    """What each attribution selects on the start model, as large as the region.

    Another seed is used than the region's, or `random` would find the region that it drew.
    """
    masks = {}
    for name in attributions:
        if bench.progress is not None:
            bench.progress(f"seed {seed}: where is it, by {name}", 0, 1, "")
        scores = localize(
            load_model(start),
            bench.tokenizer,
            bench.corpus,
            attribution=name,
            unit="value_vector",
            seed=seed + OTHER_SEED,
        )
        masks[name] = scores.select(ratio=bench.protocol.ratio)
    return masks


def recovered(masks: Mapping[str, Mask], region: Mask) -> dict[str, Recovery]:
    """How well each attribution finds the region."""
    return {name: recovery(mask, region) for name, mask in masks.items()}
