"""Masks held against each other: agreement of masks, recovery of a known region."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

from expunge.core.checks import ExpungeError
from expunge.masks.mask import Mask
from expunge.masks.mask_fingerprint import Agreement, Recovery
from expunge.masks.storage import popcount


def agreements(masks: Mapping[str, Mask]) -> list[Agreement]:
    """Agreement of every pair of masks.

    The expectation is that of independent uniform draws from what each mask knows: with shares p and q of the same
    units the intersection is p * q of them, so for p = q the IoU is p / (2 - p).

    Args:
        masks: label -> mask, all of one model.

    Raises:
        ExpungeError: two masks are of models with other shapes.
    """
    found = []
    for (one, a), (other, b) in combinations(masks.items(), 2):
        met = _meeting(a, b)
        shared = met.one / met.known_one * met.other / met.known_other * met.known_both
        actual = a.overlap(b)
        found.append(
            Agreement(
                one=one,
                other=other,
                iou=actual.iou,
                coefficient=actual.coefficient,
                expected_iou=_ratio(shared, met.one + met.other - shared),
                expected_coefficient=_ratio(shared, min(met.one, met.other)),
            )
        )
    return found


def recovery(mask: Mask, region: Mask) -> Recovery:
    """Precision and recall of a mask against the region that is known to hold the knowledge.

    Args:
        mask: what an attribution selected.
        region: the truth.

    Raises:
        ExpungeError: nothing is selected in one of the two, or they are of models with other shapes.
    """
    met = _meeting(mask, region)
    if not met.one or not met.other:
        raise ExpungeError("precision and recall need something selected in the mask and in the region.")
    return Recovery(
        precision=met.shared / met.one,
        recall=met.shared / met.other,
        expected_precision=met.other_known_to_one / met.known_one,
        expected_recall=met.one / met.known_one * met.other_known_to_one / met.other,
    )


class _Meeting(NamedTuple):
    """Sizes of two selections and of what each could select, in units where both are cut alike, else in weights."""

    one: int
    other: int
    shared: int
    known_one: int
    known_other: int
    known_both: int
    other_known_to_one: int
    """How much of the other selection is where the first could select."""


def _meeting(a: Mask, b: Mask) -> _Meeting:
    if not a.layout.difference(b.layout):
        n = sum(a.layout.groups.values())
        one, other = sum(a.counts().values()), sum(b.counts().values())
        shared = sum(popcount(a.bits[group] & b.bits[group]) for group in a.bits)
        return _Meeting(one, other, shared, n, n, n, other)
    a.layout.check_one_model(b.layout)
    one = other = shared = known_both = other_known = 0
    for name in dict.fromkeys([*a.layout.parts, *b.layout.parts]):
        first = a.dense(name) if name in a.layout.parts else None
        second = b.dense(name) if name in b.layout.parts else None
        one += int(first.sum()) if first is not None else 0
        other += int(second.sum()) if second is not None else 0
        if first is not None and second is not None:
            shared += int((first & second).sum())
            known_both += first.numel()
            other_known += int(second.sum())
    known = [sum(part.numel for part in mask.layout.parts.values()) for mask in (a, b)]
    return _Meeting(one, other, shared, known[0], known[1], known_both, other_known)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
