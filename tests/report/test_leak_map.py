"""The leak map on a terminal and as a drawing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

from expunge.report.figures import save_png
from expunge.report.leak_map import leak_map, shown_columns, terminal, worst_first
from expunge.results.attacked import Attacked, Column, Leak
from expunge.results.texts import Texts


def column(name: str, values: dict[int, float], control: float = 0.0) -> Column:
    def leak(of: dict[int, float]) -> Leak:
        return Leak(name=name, measure="extraction strength", facts=tuple(of), values=tuple(of.values()))

    return Column(name=name, leak=leak(values), control=leak(dict.fromkeys(values, control)), threshold=0.2)


@pytest.fixture
def found() -> Attacked:
    return Attacked(
        columns=(
            column("plain", {0: 0.1, 1: 0.3, 2: 0.0}),
            column("quantize.nf4", {0: 1.0, 1: 0.25, 2: 0.0}),
            column("relearn.forget", {1: 0.0, 2: 0.1}, control=0.4),
            Column(name="lens", leak=None, control=None, threshold=0.2, note="it needs the retain set"),
        ),
        questions=("Who\nlives here?", "What $costs_a$ lot?", "Where " + "on earth " * 20 + "?"),
        answers=("A", "B", "C"),
        control="retain model",
        label="npo",
    )


def test_a_cell_is_the_recovery_in_tenths_where_a_fact_leaks(found: Attacked) -> None:
    legend, header, *lines = (line.plain for line in terminal(found, [0, 1, 2], width=80))
    assert legend == "a plain   b quantize.nf4   c relearn.forget"
    assert header == "fact  a b c  worst   question"
    assert lines[0] == "   1  · 9    1.00 b  Who lives here?"  # 1 is shown as nine tenths; the third has no value
    assert lines[1] == "   2  3 2 ·  0.30 a  What $costs_a$ lot?"
    assert lines[2].startswith("   3  · · ·  0.00 a  Where on earth")


def test_leaking_cells_alone_are_colored_the_more_the_darker(found: Attacked) -> None:
    styles = [[str(span.style) for span in line.spans] for line in terminal(found, [0, 1], width=80)][2:]
    assert "on #d1580a" in styles[0][1] and styles[0][0] == "dim"
    shades = [int(styles[1][i].rpartition("#")[2][2:4], 16) for i in (0, 1)]
    assert shades[0] < shades[1]  # 0.3 is darker than 0.25


@pytest.mark.parametrize("attacks", [8, 20, 45])
def test_the_map_keeps_within_80_columns(attacks: int, capsys: pytest.CaptureFixture[str]) -> None:
    from expunge.cli.verbs.attack import _show_map

    many = tuple(column(f"prompts.multiple_choice_{i}", dict.fromkeys(range(30), 0.5)) for i in range(attacks))
    _show_map(Attacked(columns=many, questions=("Why is it so? " * 9,) * 30, answers=("x",) * 30, control=None))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "10 more are in the result and its drawing." in lines
    assert sum("0.50 a" in line for line in lines) == 20


def test_facts_that_leak_most_stand_on_top_and_leaking_cells_are_dotted(found: Attacked) -> None:
    assert worst_first(found) == [0, 1, 2] and [c.name for c in shown_columns(found)][-1] == "relearn.forget"
    figure = leak_map(found)
    axes = figure.axes[0]
    expected = [[0.1, 1.0, np.nan], [0.3, 0.25, -0.4], [0.0, 0.0, -0.3]]
    assert np.allclose(np.ma.filled(axes.images[0].get_array(), np.nan), expected, equal_nan=True)
    (dots,) = (one for one in axes.collections if isinstance(one, PathCollection))
    assert sorted(map(tuple, dots.get_offsets().tolist())) == [(0, 1), (1, 0), (1, 1)]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == [
        "Who lives here?  1",
        "What $costs_a$ lot?  2",
    ]
    told = "recovery above the retain model; dots: facts that leak (from 0.2 on)"
    assert f"{told}; gray: no value" in " ".join(figure.texts[0].get_text().split())
    complete = leak_map(replace(found, columns=found.columns[:2])).texts[0].get_text()
    assert told in " ".join(complete.split()) and "gray" not in complete


@pytest.mark.parametrize("texts", ["keep", "drop"])
@pytest.mark.parametrize("label", ["npo", "a model with a name of many words " * 4])
def test_what_stands_below_the_drawing_is_not_cut_off(found: Attacked, texts: Texts, label: str) -> None:
    figure = leak_map(replace(found.with_texts(texts), label=label))
    FigureCanvasAgg(figure)
    below, axes = figure.texts[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert below.x0 >= 0 and below.x1 <= figure.bbox.x1 and 0 <= below.y0 < below.y1 <= axes.y0


def test_without_texts_facts_have_their_numbers_alone(found: Attacked, tmp_path: Path) -> None:
    dropped = found.with_texts("drop")
    assert [label.get_text() for label in leak_map(dropped).axes[0].get_yticklabels()] == ["1", "2", "3"]
    assert [line.plain for line in terminal(dropped, [1], width=80)][-1].rstrip() == "   2  3 2 ·  0.30 a"
    assert save_png(leak_map(dropped), tmp_path / "map.png").stat().st_size > 5000


def test_what_has_no_verdict_is_drawn_empty() -> None:
    nothing = Attacked(columns=(), questions=("Who?",), answers=("A",), control=None)
    assert leak_map(nothing).axes
