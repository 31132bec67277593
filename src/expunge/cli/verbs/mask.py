"""`expunge mask`: looking at masks, selecting from stored scores, drawing random controls."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.cli.console import heading, say, table
from expunge.cli.verb import Call, Verb
from expunge.cli.verbs.localize import describe
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.lock import locked
from expunge.core.output import check_output_file
from expunge.masks.mask_fingerprint import OUTSIDE

if TYPE_CHECKING:
    from expunge.masks.mask import Mask


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """What masks are compared with, and where drawings go."""

    output: str | None = None
    """Drawing of where the masks are, `.svg` or `.png`; of several masks there is also one of their overlap, with
    `-overlap` in its name."""
    region: str | None = None
    """Mask of the region that is known to hold the knowledge, for precision and recall."""


def info(call: Call[InfoConfig]) -> int:
    """Say where masks are in the model, how much they agree, and how well they find a known region."""
    from expunge.masks.agreement import agreements, recovery
    from expunge.masks.mask import Mask
    from expunge.masks.mask_fingerprint import fingerprint

    config = call.config
    if not call.positional:
        raise ExpungeError("name a mask: expunge mask info mask.safetensors")
    drawing = Path(config.output) if config.output is not None else None
    overlap = drawing.with_stem(f"{drawing.stem}-overlap") if drawing and len(call.positional) > 1 else None
    for path in (drawing, overlap):
        check_output_file(path, overwrite=call.overwrite)
    masks = {label: Mask.load(path) for label, path in zip(labels(call.positional), call.positional, strict=True)}
    region = Mask.load(config.region) if config.region is not None else None
    prints = [fingerprint(mask, label) for label, mask in masks.items()]
    for label, mask, print_ in zip(masks, masks.values(), prints, strict=True):
        heading(label)
        say(f"{describe(print_.units, print_.share, mask.share().weights, print_.unit)}; {_made(mask)}")
        say(f"by kind: {_listed(print_.by('kind'))}")
        say(f"by layer: {_listed(print_.by('layer'))}; Gini {print_.gini:.3f}")
        if region is not None:
            found = recovery(mask, region)
            say(
                f"region: precision {found.precision:.3f} (random {found.expected_precision:.3f}), "
                f"recall {found.recall:.3f} (random {found.expected_recall:.3f})"
            )
    pairs = agreements(masks)
    if pairs:
        heading("Overlap")
        header = ("one", "other", "IoU", "random", "of the smaller", "random")
        lines = [
            (
                pair.one,
                pair.other,
                *(f"{v:.3f}" for v in (pair.iou, pair.expected_iou, pair.coefficient, pair.expected_coefficient)),
            )
            for pair in pairs
        ]
        table(header, lines, numeric=(2, 3, 4, 5))
    if drawing is not None:
        from expunge.report import mask_figures as drawings

        with locked(overlap):
            if overlap is not None:
                overlap.unlink(missing_ok=True)  # a kill leaves no two drawings of different masks
            path = drawings.save(drawings.fingerprints(prints), drawing, title="Where the masks are")
            say(f"\ndrawing: {path}")
            if overlap is not None:
                path = drawings.save(drawings.agreement(list(masks), pairs), overlap, title="Overlap of the masks")
                say(f"drawing: {path}")
    return 0


def labels(paths: Sequence[str]) -> list[str]:
    """A short name for each path, no two alike: the file's stem where that distinguishes them."""
    if len(set(paths)) < len(paths):
        raise ExpungeError(f"a mask was named twice: {', '.join(paths)}.")
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    shared = os.path.commonpath([Path(path).resolve().parent for path in paths])
    return [str(Path(path).resolve().relative_to(shared).with_suffix("")) for path in paths]


def _made(mask: "Mask") -> str:
    manifest = mask.manifest
    if manifest is None:
        return "nothing says how it was made"
    how = manifest.arguments.get("attribution") or manifest.arguments.get("made_by", "unknown")
    return f"made by {how} on {manifest.results.get('start_model') or manifest.inputs.get('model', 'an unknown model')}"


def _listed(densities: Mapping[Any, float]) -> str:
    return ", ".join(f"{'outside' if k == OUTSIDE else k} {100 * v:.3g} %" for k, v in densities.items())


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """What is selected."""

    output: str
    """File for the mask."""
    ratio: float | None = None
    """Share of the units selected; null: 0.1, unless count or threshold is given."""
    count: int | None = None
    """Number of units selected instead."""
    threshold: float | None = None
    """Select every unit with a score above this instead."""
    scope: Literal["global", "per_matrix", "per_row"] | None = None
    """Within what units are ranked; null: as the attribution is meant."""
    order: Literal["top", "bottom"] = "top"
    """`bottom` selects the lowest scores, a control."""
    modules: tuple[str, ...] | None = None
    """Regular expressions for names of parameters; only these are looked at."""


def select(call: Call[SelectConfig]) -> int:
    """Select a mask from stored scores."""
    from expunge.masks.scores import Scores

    config = call.config
    if len(call.positional) != 1:
        raise ExpungeError(
            f"name one file of scores: expunge mask select scores.safetensors ...; got {len(call.positional)}."
        )
    check_output_file(config.output, overwrite=call.overwrite, kind="mask")
    mask = Scores.load(call.positional[0]).select(
        ratio=config.ratio,
        count=config.count,
        threshold=config.threshold,
        scope=config.scope,
        order=config.order,
        modules=config.modules,
    )
    return _saved(mask, config.output)


@dataclass(frozen=True, kw_only=True)
class ComplementConfig:
    """What is drawn."""

    output: str
    """File for the mask."""
    seed: int = 0
    """Of the draw."""
    scope: Literal["global", "per_matrix"] = "global"
    """`global` matches the number of units in all, `per_matrix` in each parameter."""

    def __post_init__(self) -> None:
        require_at_least("seed", self.seed, 0)


def complement(call: Call[ComplementConfig]) -> int:
    """Draw a random mask of the same size outside of a mask: the control that localization must beat."""
    from expunge.masks.mask import Mask

    config = call.config
    if len(call.positional) != 1:
        raise ExpungeError(
            f"name one mask: expunge mask complement mask.safetensors output=...; got {len(call.positional)}."
        )
    check_output_file(config.output, overwrite=call.overwrite, kind="mask")
    return _saved(Mask.load(call.positional[0]).complement(config.seed, scope=config.scope), config.output)


def _saved(mask: "Mask", output: str) -> int:
    path = mask.save(output)
    share = mask.share()
    units = sum(mask.counts().values())
    say(f"mask: {path}, {describe(units, share.units, share.weights, mask.layout.unit)}")
    return 0


INFO = Verb(
    name="mask info",
    config=InfoConfig,
    run=info,
    flags=("overwrite",),
    positional="MASK...",
    note="Example: expunge mask info wagle.safetensors memflex.safetensors output=masks.svg",
)
SELECT = Verb(name="mask select", config=SelectConfig, run=select, flags=("overwrite",), positional="SCORES")
COMPLEMENT = Verb(
    name="mask complement", config=ComplementConfig, run=complement, flags=("overwrite",), positional="MASK"
)
