"""What the experiment found, as tables."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from expunge.experiments import Table
from expunge.experiments._locality.findings import Found
from expunge.experiments._locality.matching import Matched
from expunge.experiments._shown import over_seeds, shown
from expunge.masks.mask_fingerprint import Recovery
from expunge.report.text import words

COMPARED = (
    "method",
    "measure",
    "place",
    "there",
    "random",
    "difference",
    "90 %",
    "mean |difference|",
    "t-test p",
    "sign-flip p",
    "equivalence p",
)
RECOVERED = ("attribution", "precision", "recall", "by chance")
MATCHED = ("place", "forgetting", "retention", "log10 forget quality", "utility", "distance left")


def of(found: Found, recovered: Mapping[str, Sequence[Recovery]], matched: Sequence[Matched]) -> Iterator[Table]:
    """Places against random regions; then what attributions find and what matching came to, where they were run."""
    yield Table(COMPARED, list(_compared(found)), range(3, len(COMPARED)), "Against random regions, paired by seed")
    if recovered:
        rows = list(_recovered(recovered))
        yield Table(RECOVERED, rows, range(1, len(RECOVERED)), "Does an attribution find the region?")
    if matched:
        rows = list(_matched(matched))
        yield Table(MATCHED, rows, range(1, len(MATCHED)), "Moved toward the retain model (match_retain)")


def _compared(found: Found) -> Iterator[tuple[str, ...]]:
    for method, measures in found.items():
        for name, places in measures.items():
            for place, one in places.items():
                sides = (f"{shown(mean)} ± {shown(std)}" for mean, std in zip(one.means, one.stds, strict=True))
                yield (
                    method,
                    words(name),
                    place,
                    *sides,
                    shown(one.difference),
                    " to ".join(map(shown, one.interval)),
                    shown(one.absolute),
                    shown(one.t_p),
                    shown(one.flip_p),
                    f"{shown(one.equivalence_p)} (within {one.margin:g})",
                )


def _recovered(recovered: Mapping[str, Sequence[Recovery]]) -> Iterator[tuple[str, ...]]:
    for name, found in recovered.items():
        recall, chance = mean(one.recall for one in found), mean(one.expected_precision for one in found)
        yield name, over_seeds([one.precision for one in found]), shown(recall), shown(chance)


def _matched(matched: Sequence[Matched]) -> Iterator[tuple[str, ...]]:
    for place in dict.fromkeys(one.place for one in matched):
        there = [one for one in matched if one.place == place]
        numbers: tuple[list[float | None], ...] = (
            [one.forget_strength for one in there],
            [one.retain_strength for one in there],
            [one.log10_quality for one in there],
            [one.utility for one in there],
            [one.distance / one.distance_before for one in there],
        )
        yield place, *map(over_seeds, numbers)
