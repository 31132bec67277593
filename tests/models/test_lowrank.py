"""Adapters on a model: step 0 is the start model, what is trained, merging, and files that PEFT alone can load."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.adapter_files import load_adapter, read_adapter_into, write_adapter
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, save_model
from expunge.models.lowrank import (
    Factors,
    StartModel,
    attach,
    check_peft,
    halves,
    lora_layers,
    merged,
    taken_off,
    without_known_warnings,
)
from expunge.models.matrices import as_out_in, linear_layers, shape_of, target_matrices

IDS = torch.tensor([[1, 17, 40, 3, 9, 88, 21], [1, 5, 6, 7, 200, 11, 12]])


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def factors(model: nn.Module, rank: int = 4, seed: int = 0) -> dict[str, Factors]:
    """Random factors of the size of the weights."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in target_matrices(model, "all-linear"):
        n_out, n_in = shape_of(linear_layers(model)[name])
        found[name] = Factors(
            torch.randn(rank, n_in, generator=generator) * 0.2, torch.randn(n_out, rank, generator=generator) * 0.2
        )
    return found


def adapted(model: nn.Module, *, begun: bool, rank: int = 4, seed: int = 0) -> PeftModel:
    names = target_matrices(model, "all-linear")
    start = factors(model, rank, seed) if begun else None
    return attach(model, names, rank=rank, lora_alpha=None, start=start, seed=seed)


def moved(model: PeftModel, size: float = 0.05) -> PeftModel:
    """As after training: every trained factor has changed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator).to(p) * size)
    return model


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_step_0_is_the_start_model(architecture: str) -> None:
    before = logits(zoo.tiny_model(architecture))
    assert torch.equal(logits(adapted(zoo.tiny_model(architecture), begun=False)), before)
    begun = adapted(zoo.tiny_model(architecture), begun=True)
    assert torch.equal(logits(begun), before)
    assert float((logits(moved(begun)) - before).abs().max()) > 0.01


@pytest.mark.parametrize("begun", [False, True])
def test_step_0_is_the_start_model_in_bfloat16_too(begun: bool) -> None:
    before = logits(zoo.tiny_model().bfloat16())
    after = logits(adapted(zoo.tiny_model().bfloat16(), begun=begun))
    assert torch.equal(after, before)
    # The published form, where the residual is rounded, misses it by far more than nothing.
    model = zoo.tiny_model().bfloat16()
    for name, found in factors(model).items():
        weight = linear_layers(model)[name].weight
        rest = (weight.float() - 2 * found.b @ found.a).bfloat16()
        weight.data = (rest.float() + 2 * found.b @ found.a).bfloat16()
    assert float((logits(model) - before).abs().max()) > 0.01


def test_step_0_holds_under_mixed_precision_to_its_rounding() -> None:
    model = zoo.tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        before = logits(model)
        after = logits(adapted(model, begun=True))
    assert torch.equal(after, before)


def pair(seed: int = 0) -> tuple[nn.Module, Factors]:
    """An adapted layer in float32 that began at random factors, shortly after the start, and these factors."""
    model = zoo.tiny_model()
    name = "model.layers.0.mlp.up_proj"
    start = {name: factors(model)[name]}
    layer = lora_layers(moved(attach(model, [name], rank=4, lora_alpha=None, start=start), 1e-3))
    return layer[f"base_model.model.{name}"], start[name]


def test_what_the_pair_adds_is_rounded_relative_to_itself_under_mixed_precision() -> None:
    layer, start = pair()
    a, b, _, _ = (None if f is None else f.detach().double() for f in halves(layer))
    a0, b0 = start.a.double(), start.b.double()
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        added = layer.lora_B["default"](layer.lora_A["default"](x)).double()
        # The other form of the same pair, for comparison.
        apart = (x @ torch.cat([a, a0]).float().T) @ torch.cat([b, -b0], 1).float().T
    exact = x.double() @ (b @ a - b0 @ a0).T
    off, off_apart = (float((y.double() - exact).norm() / exact.norm()) for y in (added, apart))
    assert off < 0.01 < 0.1 < off_apart


def test_the_gradients_are_those_of_the_difference_of_two_products() -> None:
    layer, start = pair()
    layer = layer.double()
    a, b, _, _ = halves(layer)
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = [f.detach().clone().requires_grad_() for f in (a, b)]
    weight = layer.get_base_layer().weight.detach()
    direct = x @ (weight + 2 * (plain[1] @ plain[0] - start.b.double() @ start.a.double())).T
    assert_close(layer(x), direct, rtol=1e-9, atol=1e-9)
    expected = torch.autograd.grad(direct.square().sum(), plain)
    for found, wanted in zip(torch.autograd.grad(layer(x).square().sum(), (a, b)), expected, strict=True):
        assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("begun", [False, True])
def test_merged_weights_are_the_sum_in_float32_cast_once(
    architecture: str, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny_model(architecture).bfloat16()
    weights = {n: as_out_in(m, m.weight.detach()).clone() for n, m in linear_layers(model).items()}
    inside = moved(adapted(model, begun=begun))
    found, change, once = lora_layers(inside), {}, {}
    for name, layer in found.items():
        a, b, a0, b0 = halves(layer)
        start = 0 if a0 is None else b0.double() @ a0.double()
        plain_name = name.removeprefix("base_model.model.")
        change[plain_name] = 2 * (b.double() @ a.double() - start).detach()
        exact = weights[plain_name].float() + as_out_in(layer.get_base_layer(), layer.get_delta_weight("default"))
        once[plain_name] = exact.detach().bfloat16()
    # Wider weights at the time of merging would be of no use: the sum is the same to the bit.
    narrow, merge = [], LoraModel.merge_and_unload
    monkeypatch.setattr(
        LoraModel,
        "merge_and_unload",
        lambda self: narrow.extend(layer.get_base_layer().weight.dtype for layer in found.values()) or merge(self),
    )
    plain = merged(inside)
    assert len(narrow) == len(once) and {*narrow} == {torch.bfloat16}
    assert type(plain).__name__ == type(model).__name__ and not lora_layers(plain)
    assert not hasattr(plain, "peft_config")
    for name, module in linear_layers(plain).items():
        expected = (weights[name].double() + change[name]).bfloat16()
        got = as_out_in(module, module.weight.detach())
        assert got.dtype == torch.bfloat16 and torch.equal(got, once[name])
        # A sum in float32 instead of float64 may round a value in a few thousand to its other neighbor.
        assert float((got != expected).float().mean()) < 0.002, name
        assert_close(got, expected, rtol=0.01, atol=1e-5)


@pytest.mark.parametrize("begun", [False, True])
def test_taking_it_off_gives_the_start_model_bit_for_bit(begun: bool) -> None:
    model = zoo.tiny_model()
    before = model_fingerprint(model)
    plain = taken_off(moved(adapted(model, begun=begun)))
    assert plain is model and model_fingerprint(plain) == before


def test_only_factors_are_trained_and_the_start_stays() -> None:
    model = adapted(zoo.tiny_model(), begun=True)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 21 and all(".lora_" in name for name in trained)
    frozen = {name: b.clone() for name, b in model.named_buffers() if ".start" in name}
    assert len(frozen) == 2 * 21
    model(input_ids=IDS).logits.square().mean().backward()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    optimizer.step()
    assert all(torch.equal(b, frozen[name]) for name, b in model.named_buffers() if name in frozen)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("begun", [False, True])
def test_the_start_model_is_seen_through_the_adapter(begun: bool) -> None:
    before = logits(zoo.tiny_model())
    model = moved(adapted(zoo.tiny_model(), begun=begun)).train()
    after = logits(model)
    assert torch.equal(logits(StartModel(model)), before)
    assert model.training and torch.equal(logits(model), after)
    assert all(p.requires_grad for name, p in model.named_parameters() if ".lora_" in name)


def test_the_start_model_of_a_handed_in_adapter_has_its_first_values() -> None:
    model = moved(adapted(zoo.tiny_model(), begun=False))
    before = logits(model)
    start = StartModel(model, own_adapter=True)
    moved(model)
    assert not torch.allclose(logits(model), before) and torch.equal(logits(start), before)


def test_seeing_the_start_model_leaves_gradients_alone() -> None:
    gradients = []
    for look in (False, True):
        model = moved(adapted(zoo.tiny_model(), begun=False))
        start = StartModel(model, own_adapter=True)
        moved(model)
        loss = model(input_ids=IDS).logits.square().mean()
        if look:
            logits(start)
        loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == 42
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("begun", [False, True])
def test_an_adapter_goes_to_disk_and_back(tmp_path: Path, begun: bool) -> None:
    trained = moved(adapted(zoo.tiny_model(), begun=begun))
    write_adapter(trained, tmp_path)
    again = adapted(zoo.tiny_model(), begun=begun, seed=1)  # other factors, all of which the file replaces
    read_adapter_into(again, tmp_path)
    for name, value in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    config = LoraConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.lora_alpha) == ((8, 16) if begun else (4, 8))


_READ = """
import sys, warnings, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from safetensors.torch import save_file
base, adapter, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
with torch.no_grad():
    save_file({"logits": model(input_ids=torch.tensor(%r)).logits}, out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_alone_loads_it_on_the_original_base_in_a_process_of_its_own(tmp_path: Path, architecture: str) -> None:
    save_model(zoo.tiny_model(architecture), zoo.tokenizer(), tmp_path / "base")
    trained = moved(adapted(load_model(tmp_path / "base"), begun=True))
    write_adapter(trained, tmp_path / "adapter")
    command = [sys.executable, "-c", _READ % IDS.tolist(), "base", "adapter", "logits.safetensors"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=240, capture_output=True)
    assert_close(load_file(tmp_path / "logits.safetensors")["logits"], logits(trained), rtol=1e-5, atol=1e-5)


def test_an_adapter_folder_loads_as_a_model_on_its_own_base_only(tmp_path: Path) -> None:
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "base")
    start = load_model(tmp_path / "base")
    base = model_fingerprint(start)
    trained = moved(adapted(start, begun=True))
    write_adapter(trained, tmp_path / "adapter", {"kind": "fila", "base": base, "dtype": "float32"})
    assert_close(logits(load_model(tmp_path / "adapter")), logits(trained), rtol=1e-5, atol=1e-5)
    other = zoo.tiny_model(seed=1)
    with pytest.raises(ExpungeError, match=r"was trained on another model .*force=True"):
        load_adapter(other, tmp_path / "adapter")
    assert lora_layers(load_adapter(other, tmp_path / "adapter", force=True))
    state = load_file(tmp_path / "base/model.safetensors")
    state["model.norm.weight"] += 1
    save_file(state, tmp_path / "base/model.safetensors", {"format": "pt"})
    with pytest.raises(ExpungeError, match="was trained on another model"):
        load_model(tmp_path / "adapter")
    with pytest.raises(ExpungeError, match=r"is not an adapter: it lacks adapter_config\.json"):
        load_adapter(other, tmp_path)


def test_dropout_of_the_adapter_is_left_on_while_that_of_the_model_is_off() -> None:
    from expunge.models.anatomy import without_dropout

    names = target_matrices(zoo.tiny_model(), "mlp")
    model = attach(zoo.tiny_model(), names, rank=2, lora_alpha=None, dropout=0.3)
    with without_dropout(model):
        rates = [m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.3] * len(names)


def test_peft_models_that_cannot_be_trained_further_are_named() -> None:
    config = LoraConfig(target_modules=["q_proj"])
    with without_known_warnings():
        model = get_peft_model(zoo.tiny_model(), config)
    check_peft(model)
    model.requires_grad_(False)
    with pytest.raises(ExpungeError, match="is_trainable=True"):
        check_peft(model)
    model.add_adapter("second", copy.copy(config))
    with pytest.raises(ExpungeError, match="carries 2 PEFT adapters"):
        check_peft(model)


def test_bits_without_bitsandbytes_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExpungeError, match="bits=4 needs bitsandbytes, which is not installed"):
        load_model(tmp_path, bits=4, device="cuda")
    with pytest.raises(ExpungeError, match="bits must be 8 or 4; got 3"):
        load_model(tmp_path, bits=3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for bits in (4, 8):
        with pytest.raises(ExpungeError, match=f"bits={bits} needs a GPU.*gradients are missing or wrong"):
            load_model(tmp_path, bits=bits, device="cpu")
