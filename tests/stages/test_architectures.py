"""Every supported architecture goes through every stage.

The stages: train, unlearn with losses of each kind, evaluate, save, load.
"""

from pathlib import Path

import pytest
import torch

import expunge
import zoo
from expunge.models.anatomy import blocks, is_linear
from expunge.models.load import load_model, load_tokenizer

KINDS = {
    "npo": {},  # log-probabilities with reference values
    "ihl": {},  # logits
    "grad_diff": {"retain": "kl"},  # logits of a frozen second model
    "dpo": {},  # alternate answers
    "rmu": {"layer": 1},  # hidden states, some parameters
}


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_every_stage(architecture: str, tmp_path: Path) -> None:
    corpus, tokenizer = zoo.corpus(), zoo.tokenizer()
    trained = expunge.finetune(
        zoo.tiny_model(architecture),
        tokenizer,
        corpus,
        splits=("forget", "retain"),
        epochs=2,
        batch_size=8,
        learning_rate=1e-3,
        output_dir=tmp_path / "start",
    )
    assert trained.history[-1]["retain_loss"] < trained.history[0]["retain_loss"]
    before = expunge.evaluate(trained.model, tokenizer, corpus, label="start")
    assert before["forget_probability"].value is not None
    for method, extra in KINDS.items():
        model = load_model(tmp_path / "start")
        untouched = {name: p.detach().clone() for name, p in model.named_parameters()}
        folder = tmp_path / method
        run = expunge.unlearn(
            model,
            tokenizer,
            corpus,
            method=method,
            epochs=1,
            batch_size=3,
            learning_rate=1e-3,
            output_dir=folder,
            **extra,
        )
        changed = [name for name, p in run.model.named_parameters() if not torch.equal(p, untouched[name])]
        assert changed
        if method == "rmu":
            assert (
                all(p.dim() == 2 for name, p in run.model.named_parameters() if name in changed) and len(changed) == 2
            )
        again = load_model(folder)
        for name, p in run.model.named_parameters():
            assert torch.equal(dict(again.named_parameters())[name], p), name
        text = corpus["forget"][0].completion
        assert load_tokenizer(folder)(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_gradient_checkpointing_changes_nothing(architecture: str) -> None:
    ends, passes = [], []
    for checkpointing in (False, True):
        model, calls = zoo.tiny_model(architecture), []
        first = next(module for module in blocks(model)[0].modules() if is_linear(module))
        first.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        run = expunge.unlearn(
            model,
            zoo.tokenizer(),
            zoo.corpus(),
            method="simnpo",
            epochs=1,
            batch_size=3,
            learning_rate=1e-3,
            gradient_checkpointing=checkpointing,
        )
        ends.append(dict(run.model.named_parameters()))
        passes.append(len(calls))
    assert passes[1] == passes[0] + 2  # once more in the backward pass of each of two steps
    for name, p in ends[0].items():
        torch.testing.assert_close(ends[1][name], p, rtol=1e-4, atol=1e-6)
