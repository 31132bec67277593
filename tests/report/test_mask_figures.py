"""Drawings of masks: what they show can be read from them."""

from dataclasses import replace
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.masks.mask_fingerprint import OUTSIDE, Agreement, Fingerprint, Place
from expunge.report.figures import svg
from expunge.report.html import report
from expunge.report.mask_figures import agreement, fingerprints, save, trained_in
from expunge.results.measures import Evaluation


def print_of(label: str, *, layers: int = 3) -> Fingerprint:
    places = [
        Place(layer=layer, kind=kind, selected=10 * layer + n, weights=100)
        for layer in range(layers)
        for n, kind in enumerate(("q", "down"))
    ]
    outside = Place(layer=OUTSIDE, kind="embedding", selected=7, weights=100)
    return Fingerprint(label=label, unit="weight", units=9, share=0.125, places=(*places, outside))


PAIR = Agreement(one="a", other="b", iou=0.42, coefficient=0.6, expected_iou=0.05, expected_coefficient=0.1)


def texts(figure: object) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]  # type: ignore[attr-defined]


def test_every_density_stands_in_its_cell() -> None:
    figure = fingerprints([print_of("mine")])
    # densities of the layers 0.005, 0.105, 0.205: Gini 2 * (0.1 + 0.2 + 0.1) / (2 * 9 * 0.105) = 0.423
    assert {"mine", "12.5 % of weights, Gini 0.42", "0", "1", "10", "11", "20", "21", "7"} == {*texts(figure)}
    cells = figure.axes[0]
    assert [t.get_text() for t in cells.get_xticklabels()] == ["q", "down", "embedding"]
    assert [t.get_text() for t in cells.get_yticklabels()] == ["0", "1", "2", "outside"]
    at = {text.get_text(): text.get_position() for text in cells.texts}
    assert at["21"] == (1.5, 2.5) and at["7"] == (2.5, 3.5)


def test_masks_stand_side_by_side_on_one_scale() -> None:
    figure = fingerprints([print_of("one"), print_of("two")])
    assert {"one", "two"} <= {*texts(figure)}
    scales = {axes.collections[0].norm.vmax for axes in figure.axes if axes.collections and axes.texts}
    assert scales == {0.21}


def test_two_masks_of_all_linear_layers_share_a_row() -> None:
    kinds = ("q", "k", "v", "o", "gate", "up", "down")
    places = tuple(Place(layer=0, kind=kind, selected=1, weights=9) for kind in kinds)
    one = replace(print_of("one"), places=places)
    figure = fingerprints([one, replace(one, label="two")])
    named = {text.get_text(): axes.get_position() for axes in figure.axes for text in axes.texts}
    assert named["one"].y0 == named["two"].y0 and named["one"].x1 < named["two"].x0


def test_deep_models_get_no_numbers() -> None:
    assert not any(text.isdigit() for text in texts(fingerprints([print_of("deep", layers=40)])))


def test_an_empty_mask_can_be_drawn() -> None:
    empty = Fingerprint(
        label="none", unit="weight", units=0, share=0.0, places=(Place(layer=0, kind="q", selected=0, weights=5),)
    )
    assert "0" in texts(fingerprints([empty]))


def test_overlaps_stand_beside_their_expectation() -> None:
    assert texts(agreement(["a", "b"], [PAIR])) == ["0.42\n(0.05)"]
    with pytest.raises(ExpungeError, match="two masks or more; got 1"):
        agreement(["a"], [])
    with pytest.raises(ExpungeError, match="at least one mask"):
        fingerprints([])


def test_labels_cannot_break_a_page() -> None:
    text = svg(fingerprints([print_of("<script>alert(1)</script> $x$")]), title="<b>")
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_it_is_saved_as_its_name_ends(tmp_path: Path) -> None:
    figure = fingerprints([print_of("mine")])
    assert save(figure, tmp_path / "deep" / "a.svg", title="t").read_text().startswith("<svg")
    assert save(figure, tmp_path / "a.png", title="t").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ExpungeError, match=r"ends in \.svg or \.png; got a\.pdf"):
        save(figure, tmp_path / "a.pdf", title="t")


def test_a_report_shows_the_masks_that_it_is_given(tmp_path: Path) -> None:
    from expunge.results.measures import Measure

    evaluation = Evaluation({"rouge": Measure(value=0.5, better="lower", n=3, definition="d", source="s")})
    without = report(evaluation, tmp_path / "without.html").read_text()
    page = report(evaluation, tmp_path / "with.html", masks=[print_of("mine")]).read_text()
    assert "Where the masks are" not in without
    assert "Where the masks are" in page and "12.5 % of weights" in page


def test_a_report_finds_the_masks_that_its_runs_were_trained_with(tmp_path: Path) -> None:
    from dataclasses import asdict

    from expunge.core.manifest import Manifest
    from expunge.results.measures import Measure

    evaluation = Evaluation({"rouge": Measure(value=0.5, better="lower", n=3, definition="d", source="s")})
    thick, thin = print_of("any"), print_of("any", layers=2)
    for run, mask, lies in (
        ("npo", "xxh3:1", thick),
        ("wga", "xxh3:1", thick),
        ("dpo", "xxh3:2", thin),
        ("rmu", None, None),
    ):
        results = {"mask": {"fingerprint": asdict(lies)}} if lies else {}
        inputs = {"mask": mask} if mask else {}
        Manifest(stage="unlearn", arguments={}, inputs=inputs, results=results).save(tmp_path / run)
        evaluation.save(tmp_path / run / "records" / "evaluation.json")
    runs = [
        tmp_path / "npo",
        tmp_path / "wga" / "records",
        tmp_path / "dpo" / "records" / "evaluation.json",
        tmp_path / "rmu",
    ]
    # One mask is drawn once, whichever way its runs were named; through the manifest's file and back it is the same.
    assert trained_in(runs) == [replace(thick, label="npo, wga"), replace(thin, label="dpo")]
    assert trained_in([evaluation, *runs[3:]]) == []
    page = report(runs, tmp_path / "page.html").read_text()
    assert "Where the masks are" in page and ">npo, wga<" in page and ">dpo<" in page
    again = report(runs[:1], tmp_path / "again.html", masks=[replace(thick, label="by hand")]).read_text()
    assert ">by hand<" in again and ">npo<" not in again.partition("Where the masks are")[2].partition("</svg>")[0]
