"""Trade-off: what a curve of forgetting against retention comes to. Pure numpy. R = resamples, P = points."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy import stats

from expunge.core.checks import ExpungeError, require_between
from expunge.evaluation.bootstrap import LEVEL, bootstrap, interval, percentile_interval
from expunge.results.curves import Curve, Point
from expunge.results.measures import Definition, Measure

PAPER = "Does Localization Inform Unlearning?, arXiv:2505.16252"
UTILITY_SHARE = 0.95
COARSE, FINE = 5, 1
"""Steps of the two grids of mixing shares, in hundredths."""

_STRENGTH = "ES: extraction strength, reaches 0, end token left out"
_OPEN = "The paper's own rule is not published; compare only numbers of this rule."
STRENGTHS = {
    "forget_strength": Definition(
        text=f"FS = 1 - mean ES over the forget examples ({_STRENGTH})", source=PAPER, better="higher"
    ),
    "retain_strength": Definition(
        text=f"RS = mean ES over the retain examples ({_STRENGTH})", source=PAPER, better="higher"
    ),
}
_LAST: dict[str, Definition] = {
    "model_utility": Definition(
        text="harmonic mean of up to nine values on retain set, real authors and world facts",
        source="TOFU, arXiv:2401.06121",
        better="higher",
    ),
    "log10_forget_quality": Definition(
        text="log10 of the p-value of the exact two-sample KS test of truth ratios against the retain model's",
        source="TOFU, arXiv:2401.06121",
        better="higher",
    ),
}
AREAS: dict[str, Definition] = {
    "hypervolume": Definition(
        text="AUES (hypervolume): area below the steps through the Pareto front of the points (FS, RS), the start "
        f"model's included, with respect to (0, 0). {_OPEN}",
        source=PAPER,
        better="higher",
    ),
    "trapezoid": Definition(
        text="AUES (trapezoid): area below the straight lines through the Pareto front of the points (FS, RS), "
        f"extended flat to FS = 0 and dropped to 0 beyond the largest FS. {_OPEN}",
        source=PAPER,
        better="higher",
    ),
}
QUALITIES: dict[str, Definition] = {
    "best": Definition(
        text="MU95 (best): largest log10 forget quality of the points, the start model's included, with at least 95 % "
        f"of the start model's model utility. {_OPEN}",
        source=PAPER,
        better="higher",
    ),
    "interpolated": Definition(
        text="MU95 (interpolated): as MU95 (best), and between neighboring points of which one alone qualifies also "
        f"log10 forget quality at exactly 95 %, linear in model utility. {_OPEN}",
        source=PAPER,
        better="higher",
    ),
}


def pareto(fs: Float[np.ndarray, " points"], rs: Float[np.ndarray, " points"]) -> list[int]:
    """Positions of the points that no other one beats: both at least as high, one of them higher.

    By rising FS; of equal points the first.
    """
    front: list[int] = []
    for i in sorted(range(len(fs)), key=lambda i: (-fs[i], -rs[i], i)):
        if not front or rs[i] > rs[front[-1]]:
            front.append(i)
    return front[::-1]


def aues(fs: Float[np.ndarray, " points"], rs: Float[np.ndarray, " points"], *, variant: str = "hypervolume") -> float:
    """Area under the FS-RS curve, in [0, 1], higher is better.

    `hypervolume`: the area that the points dominate with respect to (0, 0). `trapezoid`: straight lines through the
    Pareto front, flat from its lowest FS down to 0, 0 beyond its largest FS; never below the hypervolume.

    Args:
        fs: forget strength of each point, in [0, 1].
        rs: retain strength of each point, in [0, 1].
        variant: the rule.

    Raises:
        ExpungeError: no point, or a value outside [0, 1].

    Source: the name from arXiv:2505.16252, whose rule of integration is not known; both rules here are ours.
    """
    if variant not in AREAS:
        raise ExpungeError(f"AUES is known as {' or '.join(AREAS)}; got variant={variant!r}.")
    if not len(fs) or len(fs) != len(rs):
        raise ExpungeError(f"AUES needs both strengths of at least one point; got {len(fs)} FS and {len(rs)} RS.")
    if not all(0 <= value <= 1 for value in (*fs, *rs)):
        raise ExpungeError("AUES needs strengths between 0 and 1; one is outside.")
    front = pareto(fs, rs)
    x, y = np.append(0.0, fs[front]), rs[front]
    heights = y if variant == "hypervolume" else (np.append(y[0], y[:-1]) + y) / 2
    return float(np.diff(x) @ heights)


def mu95(utility: Sequence[float], log10_quality: Sequence[float], *, variant: str = "best") -> float:
    """Best log10 forget quality at 95 % of the start model's utility, at most 0, higher is better.

    Args:
        utility: model utility of each point in the order of the run, the start model first.
        log10_quality: log10 of their forget quality.
        variant: `best`: of the points with at least 0.95 times the start model's utility, which always qualifies.
            `interpolated`: also, where one alone of two neighboring points qualifies, the value at exactly that
            utility, linear between the two.

    Raises:
        ExpungeError: no point, unlike lengths, or a value that is no number.

    Source: the name from arXiv:2505.16252. Which model the 95 % refer to, whether the last or the best point counts and
    whether one interpolates is not known; these rules are ours.
    """
    if variant not in QUALITIES:
        raise ExpungeError(f"MU95 is known as {' or '.join(QUALITIES)}; got variant={variant!r}.")
    if not utility or len(utility) != len(log10_quality) or any(map(math.isnan, (*utility, *log10_quality))):
        raise ExpungeError("MU95 needs model utility and log10 forget quality of every point, the start model first.")
    least = UTILITY_SHARE * utility[0]
    found = [quality for mu, quality in zip(utility, log10_quality, strict=True) if mu >= least]
    if variant == "interpolated":
        points = list(zip(utility, log10_quality, strict=True))
        for (mu, quality), (next_mu, next_quality) in pairwise(points):
            if (mu >= least) != (next_mu >= least):
                found.append(quality + (least - mu) / (next_mu - mu) * (next_quality - quality))
    return max(found)


def calibrated(retained: Callable[[int], float], *, level: float = 0.95) -> int:
    """The largest mixing share that keeps a level of the start model's retain strength, in hundredths.

    Retain strength need not fall steadily along the way, so all of 0, 5, ..., 100 are tried, then the hundredths
    between the largest share that keeps the level and the next coarse one.

    Args:
        retained: retain strength at a mixing share in hundredths; 0 is the start model.
        level: share of the start model's retain strength to keep, in [0, 1].

    Source: UWC, arXiv:2406.09179. Departures: its published script evaluates the two ends only.
    """
    require_between("level", level, 0, 1)
    least = level * retained(0)
    coarse = max(share for share in range(0, 101, COARSE) if retained(share) >= least)
    fine = range(coarse + FINE, min(coarse + COARSE, 100), FINE)
    return max([coarse, *(share for share in fine if retained(share) >= least)])


def measures(curve: Curve) -> dict[str, Measure]:
    """What a curve comes to: FS and RS of its last point, AUES and MU95 by both rules, and the calibrated model.

    The intervals resample examples, the same for all points of the curve. MU95 has none: it is an extreme of p-values.
    """
    last = curve.points[-1]
    found = _strengths(last)
    sizes = [len(last.forget), len(last.retain)]
    fs, rs = (np.array(values) for values in zip(*curve.path, strict=True))
    forget = np.array([point.forget for point in curve.points])
    retain = np.array([point.retain for point in curve.points])
    for variant, definition in AREAS.items():

        def area(w_forget: np.ndarray, w_retain: np.ndarray, variant: str = variant) -> np.ndarray:
            many_fs = 1 - w_forget @ forget.T / sizes[0]
            many_rs = w_retain @ retain.T / sizes[1]
            return np.array([aues(f, r, variant=variant) for f, r in zip(_unit(many_fs), _unit(many_rs), strict=True)])

        found[f"aues_{variant}"] = definition.measure(
            aues(_unit(fs), _unit(rs), variant=variant),
            n=sum(sizes),
            interval=percentile_interval(bootstrap(area, sizes)),
            details={"points": float(len(curve.points))},
        )
    found |= _mu95s(curve)
    if curve.calibrated is not None:
        found |= _calibration(curve.calibrated, curve.points[0])
    return found


def summary(point: Point) -> dict[str, Measure]:
    """FS and RS of one model."""
    return _strengths(point)


def _unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(values, 0, 1))  # a mean of ones may exceed 1 by rounding


def _strengths(point: Point) -> dict[str, Measure]:
    forget, retain = 1 - np.array(point.forget), np.array(point.retain)
    found = {
        name: definition.measure(value, n=len(values), interval=_of_mean(values), per_example=tuple(values.tolist()))
        for (name, definition), value, values in zip(
            STRENGTHS.items(), (point.fs, point.rs), (forget, retain), strict=True
        )
    }
    for (name, definition), last in zip(_LAST.items(), (point.utility, point.log10_quality), strict=True):
        if last is not None:
            found[name] = definition.measure(last, n=len(forget))
    return found


def _of_mean(values: np.ndarray) -> tuple[float, float]:
    return interval(lambda drawn: drawn @ values / len(values), [len(values)])


def _mu95s(curve: Curve) -> dict[str, Measure]:
    utility = [point.utility for point in curve.points]
    quality = [point.log10_quality for point in curve.points]
    known_utility, known_quality = [v for v in utility if v is not None], [v for v in quality if v is not None]
    found = {}
    for variant, definition in QUALITIES.items():
        if len(known_utility) < len(utility) or len(known_quality) < len(quality):
            lacks = "forget quality, which compares with a retain model on paraphrased and wrong answers"
            lacks = lacks if len(known_quality) < len(quality) else "model utility"
            found[f"mu95_{variant}"] = definition.missing(f"MU95 needs {lacks}.")
            continue
        found[f"mu95_{variant}"] = definition.measure(
            mu95(known_utility, known_quality, variant=variant),
            n=len(curve.points[0].forget),
            details={"model_utility_start": known_utility[0], "points": float(len(curve.points))},
        )
    return found


def _calibration(point: Point, start: Point) -> dict[str, Measure]:
    rule = "the largest mixing share a of (1 - a) start + a unlearned model that keeps the level of retention"
    note = "Near 0: this model forgot by destroying." if point.at < 0.1 else ""
    found = {
        "calibrated_alpha": Definition(
            text=f"{rule}; grid of 0.05, then of 0.01", source="UWC, arXiv:2406.09179", better="higher"
        ).measure(
            point.at,
            n=len(point.retain),
            details={"retain_strength": point.rs, "retain_strength_start": start.rs},
            note=note,
        )
    }
    for name, values, asked in (
        ("calibrated_forget_es", point.forget, "the question itself (exact)"),
        ("calibrated_paraphrased_es", point.paraphrased, "the paraphrased question (perturb)"),
    ):
        definition = Definition(
            text=f"mean ES on the forget set asked by {asked}, at {rule}",
            source="UWC, arXiv:2406.09179",
            better="lower",
        )
        held = np.array(values)
        found[name] = (
            definition.measure(float(held.mean()), n=len(held), interval=_of_mean(held))
            if values
            else definition.missing("The forget set has no paraphrased questions; add a column paraphrased_question.")
        )
    return found


BOUNDS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys((*STRENGTHS, "model_utility", *(f"aues_{name}" for name in AREAS), "calibrated_alpha"), (0.0, 1.0)),
    **dict.fromkeys(("log10_forget_quality", *(f"mu95_{name}" for name in QUALITIES)), (-math.inf, 0.0)),
    **dict.fromkeys(("calibrated_forget_es", "calibrated_paraphrased_es"), (0.0, 1.0)),
}
"""What each measure can be: Student's t knows no bounds."""


def over_seeds(found: Sequence[Measure], *, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Measure:
    """Mean of one measure over seeds, with its standard deviation and the 95 % t-interval of the mean.

    Args:
        found: the measure of each seed. A single one is returned as it is.
        bounds: least and largest value that the measure can have, at which the interval is cut.

    Returns:
        The mean, said in its note; `details` holds `std` (with n - 1) and `seeds`. Without a value where any seed has
        none.
    """
    first = found[0]
    without = [measure for measure in found if measure.value is None]
    if len(found) == 1 or without:
        return without[0] if without else first
    values = np.array([measure.value for measure in found], dtype=np.float64)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * std / math.sqrt(len(values))
    told = f"Mean of {len(values)} seeds; the interval is Student's t over seeds, not over examples."
    return replace(
        first,
        value=mean,
        interval=(max(mean - half, bounds[0]), min(mean + half, bounds[1])),
        per_example=(),
        details={"std": std, "seeds": float(len(values))},
        note=" ".join(dict.fromkeys([told, *(measure.note for measure in found if measure.note)])),
    )
