"""What a dry run of `evaluate` estimates."""

import pytest

import zoo
from expunge.evaluation.evaluation_memory import evaluation_memory


def test_memory_of_an_evaluation_counts_weights_and_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.evaluation.evaluation_memory.BATCH_TOKENS", 100)
    model = zoo.tiny_model()
    # 100 tokens x 512 x 4 bytes = 204 800; logits 100 x 320 x 4 bytes = 128 000.
    assert evaluation_memory(model, "auto") == {
        "weights": 4 * sum(p.numel() for p in model.parameters()),
        "activations": 204_800 + 128_000,
    }
