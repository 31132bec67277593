"""Defaults that follow from the model and the rows, and the warm-up."""

from typing import Any

import pytest

import expunge
import zoo
from expunge.training.training_config import TrainingConfig, rate_for


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [(70_000_000_000, 1e-5), (1_000_000_000, 1e-5), (134_515_008, 7.4e-5), (33_000_000, 3e-4), (43_700, 3e-4)],
)
def test_smaller_models_take_larger_rates(parameters: int, rate: float) -> None:
    assert rate_for(1e-5, parameters) == rate


@pytest.mark.parametrize(
    ("epochs", "rows", "batch"),
    [(10, None, 32), (10, 4000, 32), (10, 64, 32), (10, 63, 16), (10, 20, 8), (10, 11, 4), (5, 3, 1), (0.5, 4000, 32)],
)
def test_few_rows_are_taken_in_smaller_steps(epochs: float, rows: int | None, batch: int) -> None:
    filled = TrainingConfig().filled(learning_rate=1e-5, epochs=epochs, rows=rows)
    assert filled.rows_a_step == batch
    if rows is not None and batch > 1:
        assert epochs * rows / batch >= 20
    assert TrainingConfig(batch_size=7).filled(learning_rate=1e-5, epochs=epochs, rows=rows).rows_a_step == 7


def test_the_default_batch_divides_among_devices_and_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rows, micro in ((4000, None), (20, 2), (3, 4)):
        filled = TrainingConfig(micro_batch_size=micro).filled(learning_rate=1e-5, epochs=10, rows=rows)
        assert filled.rows_a_step % (3 * (micro or 1)) == 0
        filled.split()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_no_step_of_a_warm_up_has_rate_0(schedule: Any) -> None:
    run = expunge.unlearn(
        zoo.tiny_model(),
        zoo.tokenizer(),
        zoo.corpus(),
        method="npo",
        learning_rate=1e-5,
        epochs=4,
        batch_size=2,
        warmup=1,
        schedule=schedule,
    )
    rates = [row["learning_rate"] for row in run.history]
    assert len(rates) == 12 and rates[:4] == pytest.approx([0.25e-5, 0.5e-5, 0.75e-5, 1e-5]) and min(rates) > 0
    if schedule == "linear":
        assert rates[3:] == pytest.approx([1e-5 * (12 - step) / 9 for step in range(3, 12)])
