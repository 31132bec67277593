"""A GPU makes the run, and measures the model, that the CPU does."""

import pytest

import expunge
import zoo


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["npo", "rmu", "undial"])
def test_a_run_on_the_gpu_is_the_run_on_the_cpu(method: str) -> None:
    losses, measured = {}, {}
    for device in ("cpu", "cuda"):
        run = expunge.unlearn(
            zoo.tiny_model().to(device), zoo.tokenizer(), zoo.corpus(), method=method,
            epochs=2, batch_size=3, learning_rate=1e-4, precision="float32",
        )  # fmt: skip
        assert next(run.model.parameters()).device.type == device
        losses[device] = [row["loss"] for row in run.history]
        measured[device] = expunge.evaluate(run.model, zoo.tokenizer(), zoo.corpus())["forget_probability"].value
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)
    assert measured["cuda"] == pytest.approx(measured["cpu"], rel=1e-3)
