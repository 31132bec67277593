"""Drawings of a study: what is drawn where, with names from outside as text."""

import math
from pathlib import Path
from typing import Any

import pytest

from expunge.core.checks import ExpungeError
from expunge.report.study_figures import GRAY, Drawn, parallel, pareto, write


def drawn(**changes: Any) -> Drawn:
    given: dict[str, Any] = {
        "trials": [
            {"rate": 1e-5, "method": "npo"},
            {"rate": 1e-3, "method": "rmu", "own": 2.0},
            {"rate": 1e-4, "method": "npo"},
        ],
        "values": [0.5, 0.1, 0.9],
        "feasible": [True, True, False],
        "objective": "minimize known",
        "better_low": True,
        "candidates": [(0.5, 0.9, True), (0.1, 0.8, True), (0.9, 0.1, False), (math.nan, 0.3, True)],
        "front": [0, 1],
        "axes": ("known", "kept"),
    }
    return Drawn(**given | changes)


def lines(figure: Any) -> list[Any]:
    """Those of trials, which have markers."""
    return [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]


def test_a_line_for_each_trial_with_heights_by_hand() -> None:
    gray, first, second = lines(parallel(drawn()))
    assert gray.get_color() == GRAY and first.get_color() != second.get_color()
    # rate by factors (1e-5 to 1e-3), method by name, own alone in the middle, the objective from 0.1 to 0.9.
    assert first.get_xydata().tolist() == [[0, 0], [1, 0], [3, pytest.approx(0.5)]]
    assert second.get_xydata().tolist() == [[0, 1], [1, 1], [2, 0.5], [3, 0]]
    assert gray.get_ydata().tolist() == [pytest.approx(0.5), 0, 1]


def test_the_front_is_joined_and_what_has_no_value_left_out() -> None:
    broken, kept, edge = lines(pareto(drawn()))
    assert broken.get_xydata().tolist() == [[0.9, 0.1]] and kept.get_xydata().tolist() == [[0.5, 0.9], [0.1, 0.8]]
    assert edge.get_xydata().tolist() == [[0.1, 0.8], [0.5, 0.9]]


def test_drawings_are_written_as_text_and_bitmap(tmp_path: Path) -> None:
    made = write(drawn(objective="minimize $x_<script>$", axes=("$a$", "<b>")), tmp_path)
    assert [path.name for path in made] == ["parallel.svg", "parallel.png", "pareto.svg", "pareto.png"]
    page = (tmp_path / "parallel.svg").read_text()
    assert "&lt;script&gt;" in page and "<script" not in page
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="no finished trial"):
        parallel(drawn(trials=[], values=[], feasible=[]))
    with pytest.raises(ExpungeError, match="no candidate"):
        pareto(drawn(candidates=[(math.nan, 0.5, True)], front=[]))
    assert write(drawn(values=[math.nan] * 3), tmp_path) == []
    assert write(drawn(trials=[], values=[], feasible=[], candidates=[], front=[]), tmp_path) == []


def test_one_trial_alone_is_drawn() -> None:
    (line,) = lines(parallel(drawn(trials=[{"rate": 1e-5}], values=[0.3], feasible=[True])))
    assert line.get_ydata().tolist() == [0.5, 0.5]
