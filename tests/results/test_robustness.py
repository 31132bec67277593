"""R and Q by hand."""

import pytest

from expunge.results.robustness import resistance, stability


def test_resistance_by_hand() -> None:
    # the unlearned model gains 0.4, the retain model 0.1
    assert resistance((0.1, 0.5), (0.2, 0.3)) == pytest.approx(0.25)
    assert resistance((0.1, 0.2), (0.1, 0.9)) == 1  # slower than the retain model
    assert resistance((0.5, 0.4), (0.1, 0.9)) == 1  # gains nothing
    assert resistance((0.1, 0.5), (0.3, 0.2)) == 0  # the retain model even loses
    assert resistance((0.2, 0.7), (0.2, 0.7)) == 1  # a model against itself


def test_stability_falls_as_knowledge_returns() -> None:
    assert stability(0.2, 0.8) == 0.25 and stability(0.2, 0.1) == 1 and stability(0.2, 0.0) == 1
    assert stability(0.0, 0.5) == 0 and stability(0.0, 0.0) == 1
