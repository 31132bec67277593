"""What a run will take, estimated before it starts."""

from typing import Any

import pytest
import torch

import zoo
from expunge.models.tiny import tiny_model
from expunge.objectives.combine import build
from expunge.objectives.method import Method
from expunge.training.memory import Work, training_memory
from expunge.training.plan import plan_unlearning, split_settings

WORK = Work(rows=6, steps=5, micro=2, accumulation=2, tokens_an_epoch=300, tokens_at_once=100, completion_at_once=40)


def estimate(method: str = "grad_diff", **changes: Any) -> dict[str, float]:
    how: dict[str, Any] = {"second": False, "trained": 1000, "dtype": "auto", "checkpointing": False, "whole": True}
    how["autocast"] = False
    return training_memory(zoo.tiny_model(), WORK, objective=build(method), **(how | changes))


def test_memory_by_hand() -> None:
    # Three blocks, hidden size 32, intermediate size 48, vocabulary 320, float32 (4 bytes), 1000 parameters trained.
    # Blocks: 3 x 100 tokens x (10 x 32 + 4 x 48 = 512) x 4 bytes = 614 400. Logits: 40 x 320 x 4 bytes x 2 = 102 400.
    parameters = sum(p.numel() for p in zoo.tiny_model().parameters())
    assert zoo.tiny_model().config.vocab_size == 320
    assert estimate() == {
        "weights": 4 * parameters,
        "gradients": 4000,
        "optimizer": 8000,
        "activations": 614_400 + 102_400,
    }


def test_quantized_weights_are_counted_in_their_bits() -> None:
    # Linear layers of three blocks: q and o 32 x 32, k and v 16 x 32, gate, up and down 48 x 32.
    linear = 3 * (2 * 1024 + 2 * 512 + 3 * 1536)
    rest = sum(p.numel() for p in zoo.tiny_model().parameters()) - linear
    assert estimate(bits=4)["weights"] == 4 * rest + linear / 2


def test_what_changes_memory() -> None:
    parameters = sum(p.numel() for p in zoo.tiny_model().parameters())
    assert estimate(second=True)["frozen start model"] == 4 * parameters
    # Trained in float32, whatever they are stored in, unless a mask or an adapter says what changes.
    assert estimate(dtype="bfloat16") == estimate()
    few = estimate(dtype="bfloat16", whole=False)
    assert (few["weights"], few["gradients"], few["optimizer"]) == (2 * parameters, 4000, 8000)
    assert few["activations"] == 307_200 + 102_400
    # Under autocast each of 3 x (2 x 1024 + 2 x 512 + 3 x 1536) linear weights has a copy, and activations are halved.
    fast = estimate(autocast=True)
    assert (fast["bfloat16 copies of weights"], fast["activations"]) == (2 * 3 * 7680, 307_200 + 102_400)
    # Computed again: 3 x 100 x 32 x 4 = 38 400 kept, and one block of 100 x 512 x 4 = 204 800 at a time.
    assert estimate(checkpointing=True)["activations"] == 38_400 + 204_800 + 102_400


def test_whole_logits_are_kept_only_where_a_loss_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.training.memory.HEAD_CHUNK", 1000)
    for method in ("grad_diff", "kl_min", "undial"):
        assert estimate(method)["activations"] == 614_400 + 8 * 1000
    monkeypatch.setattr("expunge.objectives.forget.undial.METHOD", Method(reduction="token", alpha=0, retain="none"))
    assert estimate("undial")["activations"] == 614_400 + 102_400


def test_the_estimate_of_blocks_agrees_with_what_is_kept() -> None:
    """Measured: the tensors that a decoder keeps for its backward pass, each counted once, parameters left out."""
    model = tiny_model(zoo.tokenizer()).train()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(input_ids=torch.randint(5, 100, (4, 64)), use_cache=False)
    work = Work(**{**vars(WORK), "tokens_at_once": 4 * 64, "completion_at_once": 0})
    found = training_memory(
        model,
        work,
        objective=build("grad_diff"),
        second=False,
        trained=0,
        dtype="auto",
        whole=True,
        autocast=False,
        checkpointing=False,
    )
    assert found["activations"] == pytest.approx(sum(kept.values()), rel=0.1)


def test_trained_parameters() -> None:
    model = zoo.tiny_model()
    everything = sum(p.numel() for p in model.parameters())

    def trained(**settings: Any) -> int:
        return plan_unlearning(model, *split_settings(settings)).trained_parameters(model)

    assert trained(method="npo") == everything
    assert trained(method="rmu", layer=1) == 2 * 32 * 48  # blocks 0 and 1: there is no block before them
    # 3 blocks of rank * (in + out): q 64, k and v 48 each, o 64, gate, up and down 80 each: 3 * 4 * 464.
    assert trained(method="undial", adapter="lora", rank=4) == 5568
