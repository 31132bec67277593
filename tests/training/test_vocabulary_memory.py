"""No objective holds the logits of more than one chunk of tokens, whatever the vocabulary."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from expunge.core import catalogue
from expunge.core.batch import Batch, collate
from expunge.data.tokenizing import encode
from expunge.models import vocabulary_head
from expunge.models.reference import attach, frozen_copy, kept_of, precompute
from expunge.models.vocabulary_head import head_of
from expunge.objectives.combine import Objective, build
from expunge.objectives.method import Method
from expunge.training.loss import batch_terms

VOCABULARY, WIDTH, TOKENS = 509, 32, 7
OBJECTIVES = [(name, None) for name in catalogue.names("methods")] + [
    ("grad_diff", name) for name in catalogue.names("retain_losses")
]
ALIVE = 12
"""Chunks of logits alive at a time: the logits of both models, and what one loss makes of them."""


class Watched(TorchDispatchMode):
    """The largest tensor with a vocabulary axis, and the most bytes that such tensors take at a time.

    Weights and their gradients are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.bytes, self.peak = 0, 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor) and VOCABULARY in tensor.shape and WIDTH not in tensor.shape:
                self.see(tensor)
        return found

    def see(self, tensor: Tensor) -> None:
        self.largest = max(self.largest, tensor.numel() // VOCABULARY)
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self.leave, key, size)

    def leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size


def model_and_rows(objective: Objective) -> tuple[nn.Module, dict[str, Batch]]:
    model, corpus = zoo.tiny_model(vocab_size=VOCABULARY), zoo.corpus(4, 4)
    corpora = {"forget": corpus["forget"], "retain": corpus["retain"], "alternate": corpus["retain"]}
    encoded = {s: encode(c, zoo.tokenizer()) for s, c in corpora.items() if s in objective.streams}
    batches = {stream: collate(rows, index=range(len(rows))) for stream, rows in encoded.items()}
    assert all(int((batch["labels"] != -100).sum()) > 3 * TOKENS for batch in batches.values())
    for stream, names in objective.needs("reference").items():
        table = precompute(
            model,
            encoded[stream],
            observables=kept_of(names),
            layer=objective.layer,
            positions=objective.positions,
        )
        batches[stream] = attach(batches[stream], table)
    return model, batches


def watched(objective: Objective, *, second: bool = False) -> Watched:
    model, batches = model_and_rows(objective)
    reference = frozen_copy(model) if second else head_of(model).frozen()
    head_of(model), second and head_of(reference)  # type: ignore[arg-type]  # each tried out beforehand, on three tokens
    with Watched() as seen:
        part = batch_terms(model, batches, objective, reference=reference)
        objective.combine(part.terms, {side: term.size for side, term in part.terms.items()}).backward()
        del part
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    return seen


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_head, "HEAD_CHUNK", TOKENS * VOCABULARY + 3)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("second", [False, True], ids=["values kept", "second model"])
@pytest.mark.parametrize(("method", "retain"), OBJECTIVES)
def test_logits_of_one_chunk_are_alive_at_a_time(method: str, retain: str | None, second: bool) -> None:
    objective = build(method, retain=retain, depth=3)
    if second and not objective.needs("reference"):
        pytest.skip("it compares with no reference model")
    seen = watched(objective, second=second)
    assert seen.largest <= TOKENS
    assert seen.peak <= ALIVE * 4 * TOKENS * VOCABULARY
    assert seen.bytes == 0


@pytest.mark.usefixtures("small_chunks")
def test_the_largest_tensor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "expunge.objectives.forget.js_uniform.METHOD", Method(reduction="token", retain="none", alpha=0)
    )
    assert watched(build("js_uniform")).largest > 3 * TOKENS


@pytest.mark.usefixtures("small_chunks")
def test_chunks_that_stay_alive_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_head, "checkpoint", lambda function, *inputs, use_reentrant: function(*inputs))
    seen = watched(build("js_uniform", retain="none"))
    assert seen.largest <= TOKENS
    assert seen.peak > ALIVE * 4 * TOKENS * VOCABULARY


@pytest.mark.parametrize(("method", "retain"), OBJECTIVES)
def test_chunks_change_neither_losses_nor_gradients(
    method: str, retain: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = build(method, retain=retain, depth=3)

    def result() -> tuple[Tensor, dict[str, Tensor | None]]:
        model, batches = model_and_rows(objective)
        # In float64, away from the reference model, so that no loss is at a point where its gradient vanishes.
        reference, model = zoo.tiny_model(vocab_size=VOCABULARY, seed=1).double(), model.double()
        for batch in batches.values():
            for name in [key for key in batch if key.startswith("reference_")]:
                del batch[name]  # type: ignore[misc]
        part = batch_terms(model, batches, objective, reference=reference)
        loss = objective.combine(part.terms, {side: term.size for side, term in part.terms.items()})
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in model.named_parameters()}

    whole, whole_gradients = result()
    monkeypatch.setattr(vocabulary_head, "HEAD_CHUNK", TOKENS * VOCABULARY + 3)
    chunked, gradients = result()
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-9, atol=1e-12)
