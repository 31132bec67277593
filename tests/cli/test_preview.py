"""What a dry run estimates."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import zoo
from expunge.cli.preview import Problems, Work, evaluation_memory, in_units, marked_text, memory, skeleton
from expunge.cli.verbs._training import trained_parameters
from expunge.core.checks import ExpungeError
from expunge.models.load import load_model
from expunge.models.tiny import tiny_model
from expunge.objectives.combine import build

WORK = Work(rows=6, steps=5, micro=2, accumulation=2, tokens_an_epoch=300, tokens_at_once=100, completion_at_once=40)


def estimate(method: str = "grad_diff", **changes: Any) -> dict[str, float]:
    how: dict[str, Any] = {"second": False, "trained": 1000, "dtype": "auto", "checkpointing": False}
    return memory(zoo.tiny_model(), WORK, objective=build(method), **(how | changes))


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
    assert evaluation_memory(zoo.tiny_model(), "auto", 8)["weights"] == 4 * rest + linear


def test_what_changes_memory() -> None:
    parameters = sum(p.numel() for p in zoo.tiny_model().parameters())
    assert estimate(second=True)["frozen start model"] == 4 * parameters
    assert estimate(dtype="bfloat16")["weights"] == 2 * parameters
    # Computed again: 3 x 100 x 32 x 4 = 38 400 kept, and one block of 100 x 512 x 4 = 204 800 at a time.
    assert estimate(checkpointing=True)["activations"] == 38_400 + 204_800 + 102_400


def test_whole_logits_are_kept_only_where_a_loss_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.models.observe.HEAD_CHUNK", 1000)
    assert estimate("grad_diff")["activations"] == 614_400 + 8 * 1000
    assert estimate("kl_min")["activations"] == 614_400 + 102_400


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
    found = memory(
        model, work, objective=build("grad_diff"), second=False, trained=0, dtype="auto", checkpointing=False
    )
    assert found["activations"] == pytest.approx(sum(kept.values()), rel=0.1)


def test_memory_of_an_evaluation_counts_weights_and_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.evaluation.scoring.BATCH_TOKENS", 100)
    model = zoo.tiny_model()
    # 100 tokens x 512 x 4 bytes = 204 800; logits 100 x 320 x 4 bytes = 128 000.
    assert evaluation_memory(model, "auto") == {
        "weights": 4 * sum(p.numel() for p in model.parameters()),
        "activations": 204_800 + 128_000,
    }


def test_trained_parameters() -> None:
    model = zoo.tiny_model()
    everything = sum(p.numel() for p in model.parameters())
    assert trained_parameters(model, build("npo")).numbers == everything
    objective: Any = SimpleNamespace(forget=SimpleNamespace(method=SimpleNamespace(trains="down_projections")), layer=1)
    assert trained_parameters(model, objective).numbers == 2 * 32 * 48  # blocks 0 and 1: there is no block before them


def test_a_skeleton_has_shapes_and_no_weights(model_folder: Path, tmp_path: Path) -> None:
    found, real = skeleton(str(model_folder), trust_remote_code=False), load_model(model_folder)
    shapes = {name: (p.shape, p.dtype) for name, p in real.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in found.named_parameters()} == shapes
    assert all(p.is_meta for p in found.parameters())
    with pytest.raises(ExpungeError, match="no model folder"):
        skeleton(str(tmp_path / "nowhere"), trust_remote_code=False)


def test_marks_stand_around_what_is_supervised_and_nothing_is_invisible() -> None:
    pieces = [("<bos>", False), ("Q:\tx\n", False), ("A", False), (" In", True), ("\n", True), ("\x1b[0m", True)]
    assert marked_text(pieces) == "<bos>Q:\\tx\\n\nA« In»«\\n»\n«␛[0m»"


def test_problems_are_collected_and_bugs_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    problems = Problems()
    assert problems.concluded() == 0 and "Everything is there" in capsys.readouterr().out
    for text in ("first", "second"):
        with problems.collected():
            raise ExpungeError(text)
    assert problems.concluded() == 1 and "- first\n- second\n" in capsys.readouterr().out
    with pytest.raises(KeyError), problems.collected():
        raise KeyError


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.0 MB"), (28.3e6, "28.3 MB"), (999.9e6, "999.9 MB"), (1.24e9, "1.2 GB")]
)
def test_units(amount: float, text: str) -> None:
    assert in_units(amount) == text
