"""The drawing of cells: what it shows can be read from it."""

from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.experiments._locality.locality_figure import figure, write

VALUES = {
    "npo": {"aues_hypervolume": {"oracle": (0.8, 0.9), "random": (0.7, 0.72)}, "resistance": {"oracle": (0.5, 0.4)}},
    "wga": {"aues_hypervolume": {"random": (0.6, 0.6)}},
}
MARGINS = {"aues": 0.05, "resistance": 0.1}


def test_a_dot_a_seed_and_the_margin_around_random() -> None:
    drawn = figure(VALUES, margins=MARGINS)
    area, resistance, other, _ = drawn.axes
    assert [axes.get_title(loc="left") for axes in drawn.axes] == [
        "npo: AUES hypervolume",
        "npo: resistance",
        "wga: AUES hypervolume",
        "wga: resistance",
    ]
    assert [text.get_text() for text in area.get_yticklabels()] == ["oracle", "random"]
    dots = {tuple(line.get_ydata()): tuple(line.get_xdata()) for line in area.lines if line.get_marker() == "o"}
    assert dots == {(0, 0): (0.8, 0.9), (1, 1): (0.7, 0.72)}
    (band,) = area.patches  # around random's mean .71
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.66, 0.76))
    assert not resistance.patches  # random is missing there, so nothing to compare with
    assert len(other.patches) == 1


def test_files_and_nothing_to_draw(tmp_path: Path) -> None:
    png, vector = write(VALUES, tmp_path, margins=MARGINS)
    assert png.read_bytes()[:4] == b"\x89PNG" and vector.read_text().startswith("<svg")
    with pytest.raises(ExpungeError, match="nothing to draw"):
        figure({"npo": {}}, margins=MARGINS)
