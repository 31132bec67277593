"""How long training takes at least: operations counted by hand."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from expunge.models import speed as of


def model(*, tied: bool) -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=tied, **sizes))


@pytest.mark.parametrize("tied", [True, False])
def test_operations_by_hand(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def told(dtype: torch.dtype) -> float:
        asked.append(dtype)
        return 100.0

    monkeypatch.setattr(of, "speed", told)
    # Attention 4 x 64, three matrices of 128, three norms of 8, and the head; a tied model's table is its head.
    weights = 256 + 384 + 24 + 256
    assert of.least_seconds(model(tied=tied), 10) == pytest.approx(6 * 10 * weights / 100)
    assert of.least_seconds(model(tied=tied), 10, whole=False, bf16=True) == pytest.approx(4 * 10 * weights / 100)
    assert asked == [torch.float32, torch.bfloat16]


def test_a_product_of_matrices_has_a_speed() -> None:
    assert of.speed() > 1e6 and of.speed(torch.bfloat16) > 0
