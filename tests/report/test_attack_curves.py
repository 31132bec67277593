"""Curves of attacks: a panel each, the model's line and its control's."""

from dataclasses import replace

from expunge.report.attack_curves import attack_curves
from expunge.report.data import build
from expunge.report.figures import svg
from made_facts import attacked, column, evaluation


def test_each_attack_with_a_curve_has_a_panel_with_both_lines() -> None:
    curve = ((0.0, 0.1), (5.0, 0.4), (10.0, 0.9))
    with_control = column("relearn.forget", [0.5], [0.1], curve=curve)
    assert with_control.control is not None
    other = ((0.0, 0.0), (10.0, 0.2))
    with_control = replace(with_control, control=replace(with_control.control, curve=other))
    found = attacked("npo", 1, with_control, column("plain", [0.5], [0.1]), column("latent $x_1$", [0.5], curve=curve))
    data = build(
        [evaluation("npo", [0.1])],
        title="t",
        start=None,
        retain=None,
        baseline=None,
        attacked=[found],
        texts="keep",
        notes=(),
        leak=0.2,
        keep=0.5,
    )
    figure = attack_curves(data)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in panels] == ["npo: relearn.forget", "npo: latent $x_1$"]
    drawn = [[[tuple(map(float, p)) for p in line.get_xydata()] for line in axes.lines] for axes in panels]
    assert drawn == [[list(curve), list(other)], [list(curve)]]
    assert svg(attack_curves(data)) == svg(figure)
