"""The drawing of how far metrics can be trusted."""

import pytest

from expunge.experiments._metrics.quality_figure import drawing
from expunge.results.metric_quality import Attacked, Judgment


def judgment(metric: str, faithfulness: float, left_out: str = "") -> Judgment:
    attacked = Attacked(
        model="npo",
        before=0.3,
        relearned=0.4,
        quantized={4: 0.3, 8: 0.3},
        resistance=0.5,
        stability={4: 0.9, 8: 1.0},
        left_out=left_out,
    )
    return Judgment(
        metric=metric,
        knowing={"a": 0.8, "b": 0.9},
        ignorant={"c": 0.1, "d": 0.2, "e": 0.3},
        faithfulness=faithfulness,
        interval=(faithfulness - 0.1, faithfulness),
        threshold=0.55,
        attacked=(attacked,),
    )


def lines(axes, marker):
    return [line.get_xdata().tolist() for line in axes.get_lines() if line.get_marker() == marker]


def test_the_most_faithful_metric_stands_on_top_and_every_value_is_drawn():
    left, right = drawing([judgment("forget_rouge", 0.9), judgment("mia_loss", 0.6)]).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["MIA loss", "forget ROUGE"]
    assert lines(left, "o") == [[0.8, 0.9]] * 2 and lines(left, "s") == [[0.1, 0.2, 0.3]] * 2
    assert lines(left, "x") == [[0.3]] * 2
    assert lines(right, "D") == [[0.6], [0.9]] and lines(right, "P") == [[0.5]] * 2
    assert lines(right, "v") == [[0.9]] * 2 and lines(right, "^") == [[1.0]] * 2


def test_what_cannot_be_judged_is_left_out():
    _, right = drawing([judgment("forget_rouge", 0.9, left_out="useless")]).axes
    assert lines(right, "P") == [[]] and lines(right, "D") == [[0.9]]


@pytest.mark.parametrize("n", [1, 2])
def test_the_legend_names_each_mark_once(n):
    figure = drawing([judgment(f"metric_{i}", 0.5 + i / 10) for i in range(n)])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == len(set(texts)) == 8 and "models that know" in texts
