import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from expunge.core.checks import ExpungeError
from expunge.report.figures import FORGET, PALETTE, RETAIN, SHAPES, history, save_png, svg, tradeoff
from expunge.results.measures import Evaluation

History = dict[str, list[dict[str, float | None]]]


def moved(evaluation: Evaluation, label: str, forget: float, retain: float) -> Evaluation:
    values = {FORGET: forget, RETAIN: retain}
    changed = {name: replace(evaluation[name], value=value, interval=None) for name, value in values.items()}
    return replace(evaluation, label=label, measures={**evaluation.measures, **changed})


def markers(figure: Figure) -> set[tuple[float, float, str]]:
    """(x, y, marker) of everything drawn as a single point."""
    return {
        (round(float(line.get_xdata()[0]), 9), round(float(line.get_ydata()[0]), 9), str(line.get_marker()))
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 1
    }


def test_each_model_stands_at_its_values_with_its_own_marker(models: list[Evaluation]) -> None:
    figure = tradeoff(models, start="start", retain="retain")
    # x = 1 - ES on forget, y = ES on retain, from the fixture.
    assert markers(figure) == {
        (0.069, 0.942, "D"),
        (0.829, 0.939, "*"),
        (1.0, 0.004, SHAPES[0]),
        (0.9689, 0.431, SHAPES[1]),
        (0.858, 0.793, SHAPES[2]),
        (0.623, 0.897, SHAPES[3]),
    }
    assert {"D", "*"}.isdisjoint(SHAPES)
    assert key(figure) == dict(zip([model.label for model in models], ["D", "*", *SHAPES[:4]], strict=True))


def test_bars_are_the_intervals(models: list[Evaluation]) -> None:
    npo = next(model for model in models if model.label == "NPO")
    lines = [line for line in tradeoff([npo], start=None, retain=None).axes[0].lines if len(line.get_xdata()) == 2]
    drawn = {(tuple(map(float, line.get_xdata())), tuple(map(float, line.get_ydata()))) for line in lines}
    low, high = npo[FORGET].interval or (0, 0)
    assert ((1 - high, 1 - low), (0.793, 0.793)) in drawn
    assert ((1 - 0.142, 1 - 0.142), npo[RETAIN].interval) in drawn


def key(figure: Figure) -> dict[str, str]:
    """Name -> marker, as the legend has them."""
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    return dict(zip(names, [str(line.get_marker()) for line in legend.get_lines()], strict=True))


@pytest.mark.parametrize("count", [1, 10, 45])
def test_the_key_names_every_marker_inside_the_figure(make_model: Callable[..., Evaluation], count: int) -> None:
    npo = make_model("NPO")
    crowd = [moved(npo, f"run {i} of a {'long ' * 8}name", 0.1, 0.9) for i in range(count)]
    figure = tradeoff(crowd, start=None, retain=None)
    figure.draw_without_rendering()
    assert len(key(figure)) == count
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= figure.axes[0].get_window_extent().x1 and box.x1 <= figure.bbox.x1
    assert box.y0 >= 0 and box.y1 <= figure.bbox.y1


def test_what_cannot_be_drawn_is_named(models: list[Evaluation]) -> None:
    bare = Evaluation(measures={FORGET: models[0][FORGET]}, label="bare")
    figure = tradeoff([*models, bare], start="start", retain="retain")
    assert [text.get_text() for text in figure.texts] == ["Not drawn, as a measure is missing: bare"]
    assert len(markers(figure)) == 6
    broken = moved(models[0], "broken", math.nan, 0.5)
    with pytest.raises(ExpungeError, match="no evaluation has a value for both"):
        tradeoff([bare, broken], start=None, retain=None)


def test_trajectories(models: list[Evaluation]) -> None:
    path = [(0.07, 0.94), (0.4, 0.9), (0.858, 0.793)]
    figure = tradeoff(models, start="start", retain="retain", trajectories={"NPO": path})
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True)) == path
    assert line.get_color() == PALETTE[2]
    with pytest.raises(ExpungeError, match=r"no evaluation \(for trajectories=\) is called 'NPOO'"):
        tradeoff(models, start=None, retain=None, trajectories={"NPOO": path})
    with pytest.raises(ExpungeError, match="between 0 and 1"):
        tradeoff(models, start=None, retain=None, trajectories={"NPO": [(1.2, 0.5)]})


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", PALETTE)
def test_colors_stand_out_on_light_and_dark_ground(color: str) -> None:
    # WCAG asks for a contrast of 3 of anything drawn; the grounds are those of the page.
    for ground in ("#fcfcfb", "#14171b"):
        light, dark = sorted((luminance(color), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_svg_is_one_well_formed_element_and_the_same_each_time(models: list[Evaluation]) -> None:
    first, second = (svg(tradeoff(models, start="start", retain="retain"), title="a <b>") for _ in range(2))
    assert first == second
    root = ElementTree.fromstring(first)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.attrib["aria-label"] == "a <b>"
    assert "currentColor" in first and "#1d2126" not in first
    assert "#ffffff" not in first  # no ground of its own: that of the page shines through, light or dark
    assert re.findall(r"https?:[^\"']*", first) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<metadata|<!DOCTYPE|<\?xml|\d{4}-\d\d-\d\d", first)
    targets = set(re.findall(r"(?:href=\"|url\()#([\w-]+)", first))
    assert targets == set(re.findall(r" id=\"([\w-]+)\"", first)) and targets


def test_svg_keeps_foreign_labels_as_inert_text(make_model: Callable[..., Evaluation]) -> None:
    label = '</text><script>x</script> "模型" $\\frac{1}$'
    text = svg(
        tradeoff(
            [make_model("NPO").labeled(label), make_model("SimNPO").labeled("\x00\x1b]\ud800")], start=None, retain=None
        )
    )
    root = ElementTree.fromstring(text)
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    written = "".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text"))
    assert "模型" in written and "$\\frac{1}$" in written and "\u2400\u241b]\ufffd" in written


def test_history_draws_what_there_is(histories: History) -> None:
    figure = history(histories)
    assert len(figure.axes) == 12  # forget loss, retain loss, probabilities x 4 runs
    assert [axes.get_title(loc="left") for axes in figure.axes[:4]] == list(histories)
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["forget loss", "retain loss", "token probability"]
    losses = [row["forget_loss"] for row in histories["NPO"]]
    assert list(figure.axes[2].lines[0].get_ydata()) == losses
    assert [text.get_text() for text in figure.axes[4].texts] == ["none"]  # gradient ascent has no retain loss


def test_history_is_the_same_each_time(histories: History) -> None:
    few = {"NPO": histories["NPO"]}
    assert svg(history(few)) == svg(history(few))


def test_history_breaks_its_line_where_a_value_is_missing() -> None:
    rows: list[dict[str, float | None]] = [
        {"step": 1.0, "loss": 2.0},
        {"step": 2.0, "loss": None},
        {"step": 3.0, "loss": math.inf},
    ]
    (axes,) = history({"a": rows}).axes
    heights = [float(height) for height in axes.lines[0].get_ydata()]
    assert heights[0] == 2.0 and math.isnan(heights[1]) and math.isnan(heights[2])


def test_history_wraps_many_runs() -> None:
    figure = history({f"run {i}": [{"step": 1.0, "loss": 1.0}] for i in range(6)})
    assert [axes.axison for axes in figure.axes] == [True] * 6 + [False] * 2


def test_history_says_what_is_wrong() -> None:
    with pytest.raises(ExpungeError, match="at least one run; got none"):
        history({})
    with pytest.raises(ExpungeError, match="a row of 'a' lacks it"):
        history({"a": [{"loss": 1.0}]})
    with pytest.raises(ExpungeError, match="no loss in these histories: their rows hold step, epoch"):
        history({"a": [{"step": 1.0, "epoch": 0.1}]})


def test_png(tmp_path: Path, models: list[Evaluation]) -> None:
    written = [
        save_png(tradeoff(models, start=None, retain=None), tmp_path / "new" / f"{i}.png", dpi=50) for i in range(2)
    ]
    first, second = (path.read_bytes() for path in written)
    assert first == second and first.startswith(b"\x89PNG")
