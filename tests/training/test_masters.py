"""Weights that are stored in 16 bits are trained in float32 and rounded once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.load import load_model
from expunge.models.lowrank import without_known_warnings
from expunge.training.finetune import finetune
from expunge.training.masters import narrow, widen
from expunge.training.run import Run, uses_bf16
from expunge.training.training_config import TrainingConfig
from expunge.training.unlearn import unlearn

HALF = [torch.bfloat16, torch.float16]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(model: Any, verb: str = "npo", **settings: Any) -> Run:
    how: dict[str, Any] = {"epochs": 3, "batch_size": 3, "learning_rate": 1e-5, "warmup": 0, "schedule": "constant"}
    how |= settings
    if verb == "train":
        return finetune(model, zoo.tokenizer(), zoo.corpus(), splits=("forget",), **how)
    return unlearn(model, zoo.tokenizer(), zoo.corpus(), method=verb, **how)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("verb", "settings"), [("npo", {}), ("train", {}), ("rmu", {"layer": 1})])
def test_steps_from_16_bits_are_those_of_the_float32_copy(
    verb: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    """The contract: the result is that of the float32 copy, rounded once."""
    half = zoo.tiny_model().to(dtype)
    wide = zoo.tiny_model().to(dtype).float()
    found, expected = run(half, verb, **settings), run(wide, verb, **settings)
    assert found.history == expected.history
    for name, weight in weights(expected.model).items():
        got = found.model.get_parameter(name)
        assert got.dtype == dtype and torch.equal(got, weight.to(dtype)), name


@pytest.mark.parametrize("dtype", HALF)
def test_no_step_is_lost_and_none_is_enormous(dtype: torch.dtype) -> None:
    """AdamW moves a weight by about a learning rate a step; in 16 bits it moved none, or 300,000 rates."""
    model = zoo.tiny_model().to(dtype)
    before = weights(model)
    steps = 40
    run(model, epochs=steps, batch_size=6, learning_rate=1e-4)
    for name, weight in weights(model).items():
        unit = torch.finfo(dtype).eps * before[name].float().abs().max()
        assert (weight.float() - before[name].float()).abs().max() <= 1.5 * steps * 1e-4 + unit


class Killed(Exception):
    """What a test kills a run with."""


def killed(_what: str, done: int, _total: int, _numbers: str) -> None:
    if done == 4:
        raise Killed


def test_a_resumed_run_goes_on_from_its_float32_masters(tmp_path: Path) -> None:
    """Checkpoints hold them, so that nothing is rounded halfway; the result has the stored type."""
    whole = run(zoo.tiny_model().bfloat16(), output_dir=tmp_path / "whole")
    model = zoo.tiny_model().bfloat16()
    with pytest.raises(Killed):
        run(model, output_dir=tmp_path / "cut", progress=killed)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert load_model(next((tmp_path / "cut" / "checkpoints").glob("checkpoint-*"))).dtype == torch.float32
    resumed = run(zoo.tiny_model().bfloat16(), output_dir=tmp_path / "cut", resume=True)
    saved = load_model(tmp_path / "cut")
    assert resumed.history == whole.history
    for name, weight in weights(whole.model).items():
        assert torch.equal(resumed.model.get_parameter(name), weight)
        assert torch.equal(saved.get_parameter(name), weight)


def test_an_adapter_that_came_in_16_bits() -> None:
    """Its factors have masters; the weights that it is on stay as they are."""

    def adapted() -> Any:
        model, config = zoo.tiny_model().bfloat16(), LoraConfig(r=2, target_modules=["q_proj"])
        with without_known_warnings():
            return get_peft_model(model, config, autocast_adapter_dtype=False)

    wide = adapted()
    widen(wide)
    found, expected = run(adapted()), run(wide)
    for name, p in found.model.named_parameters():
        assert p.dtype == torch.bfloat16
        assert torch.equal(p, expected.model.get_parameter(name).to(torch.bfloat16)), name


def test_nothing_is_done_to_wider_weights() -> None:
    for model in (zoo.tiny_model(), zoo.tiny_model().double()):
        before = weights(model)
        assert widen(model) == {}
        narrow(model, {})
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.training.masters.DTensor", nn.Parameter)
    with pytest.raises(ExpungeError, match=r"sharded .*load it with dtype=torch.float32"):
        widen(zoo.tiny_model().bfloat16())


@pytest.mark.parametrize(("width", "there", "pays"), [(384, True, True), (384, False, False), (32, True, False)])
def test_bfloat16_is_computed_in_where_it_pays(
    width: int, there: bool, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.training.run.cpu_has_bfloat16", lambda: there)
    model = zoo.tiny_model(hidden_size=width)
    assert uses_bf16(model, TrainingConfig(), "cpu") == pays
    assert uses_bf16(model, TrainingConfig(precision="bfloat16"), "cpu")
    assert not uses_bf16(model, TrainingConfig(precision="float32"), "cpu")
    for dtype in HALF:
        assert uses_bf16(model.to(dtype), TrainingConfig(), "cpu") == pays
