"""Weights that do not fit their configuration: refused when loaded, and by a skeleton, which reads headers alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.adapter_files import load_adapter, write_adapter
from expunge.models.load import check_device, load_model, load_tokenizer, save_model
from expunge.models.lowrank import attach
from expunge.models.skeleton import skeleton

LOADERS = [load_model, skeleton]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its tokenizer."""
    return save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_what_was_saved_fits(architecture: str, tied: bool, tmp_path: Path) -> None:
    saved = zoo.tiny_model(architecture, tie_word_embeddings=tied)
    save_model(saved, zoo.tokenizer(), tmp_path)
    found, real = skeleton(tmp_path), load_model(tmp_path)
    shapes = {name: (p.shape, p.dtype) for name, p in real.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in found.named_parameters()} == shapes
    assert all(p.is_meta for p in found.parameters())


def test_a_sharded_model_in_half_precision_fits(tmp_path: Path) -> None:
    saved = zoo.tiny_model().to(torch.bfloat16)
    saved.save_pretrained(tmp_path, max_shard_size="20kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert skeleton(tmp_path).dtype == load_model(tmp_path).dtype == torch.bfloat16
    next(iter(tmp_path.glob("*.safetensors"))).unlink()
    for load in LOADERS:
        with pytest.raises(ExpungeError, match=r"not complete: .* names model-0000\d-of"):
            load(tmp_path)


@pytest.mark.parametrize("load", LOADERS)
def test_weights_that_the_files_lack_are_not_drawn_at_random(load: Any, folder: Path) -> None:
    change_config(folder, num_hidden_layers=5)
    with pytest.raises(ExpungeError, match=r"the files lack 18 weights of LlamaForCausalLM \(model\.layers\.3\."):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
def test_weights_that_the_model_has_no_place_for(load: Any, folder: Path) -> None:
    change_config(folder, num_hidden_layers=2)
    with pytest.raises(ExpungeError, match=r"the files hold 9 weights that LlamaForCausalLM does not have"):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
def test_weights_of_another_shape(load: Any, folder: Path) -> None:
    change_config(folder, intermediate_size=40)
    match = r"9 weights of another shape \(model\.layers\.0\.mlp\.down_proj\.weight: \[32, 48\] in the file, \[32, 40\]"
    with pytest.raises(ExpungeError, match=match):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
def test_one_weight_too_few_is_enough(load: Any, folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ExpungeError, match=r"the files lack 1 weight of LlamaForCausalLM \(model\.norm\.weight\)"):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("architecture", ["gpt_neo", "gpt2", "gpt_neox", "llama"])
def test_masks_and_frequencies_in_older_files_are_no_weights(load: Any, architecture: str, tmp_path: Path) -> None:
    save_model(zoo.tiny_model(architecture), zoo.tokenizer(), tmp_path)
    constants = {
        "gpt_neo": "transformer.h.0.attn.attention.masked_bias",
        "gpt2": "transformer.h.0.attn.bias",
        "gpt_neox": "gpt_neox.layers.0.attention.bias",
        "llama": "model.layers.0.self_attn.rotary_emb.inv_freq",
    }
    change_weights(tmp_path, lambda tensors: tensors.update({constants[architecture]: torch.ones(2)}))
    load(tmp_path)
    change_weights(tmp_path, lambda tensors: tensors.update({"more.weight": torch.ones(2)}))
    with pytest.raises(ExpungeError, match="the files hold 1 weight that"):
        load(tmp_path)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("spoil", [lambda content: content[:-100], lambda _: b"garbage" * 100])
def test_damaged_weight_files(load: Any, spoil: Callable[[bytes], bytes], folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ExpungeError, match=r"safetensors|header"):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
def test_encoders_are_refused(load: Any, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    encoder = BertForMaskedLM(BertConfig(vocab_size=320, **sizes))
    encoder.save_pretrained(tmp_path / "bert")
    with pytest.raises(ExpungeError, match=r"model_type bert.* is an encoder"):
        load(tmp_path / "bert")
    both = T5ForConditionalGeneration(T5Config(vocab_size=320, d_model=32, d_ff=48, num_layers=1, num_heads=2))
    both.save_pretrained(tmp_path / "t5")
    with pytest.raises(ExpungeError, match=r"model_type t5.* has an encoder and a decoder"):
        load(tmp_path / "t5")
    change_config(tmp_path / "bert", model_type="vit")
    with pytest.raises(ExpungeError, match=r"model_type vit.* none that transformers has a causal language model for"):
        load(tmp_path / "bert")


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "config",
    [
        '{"model_type": "llama", ',
        "[1, 2]",
        "[" * 100_000,
        '{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}",
        '{"model_type": "llama", "hidden_size": "many"}',
        '{"model_type": "llama", "num_attention_heads": 0}',
        '{"model_type": 7}',
        '{"model_type": "no_such_model"}',
        "{}",
        "",
    ],
)
def test_damaged_configurations(load: Any, config: str, folder: Path) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ExpungeError, match=r"model"):
        load(folder)


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    """A folder with an adapter on that model."""
    base = load_model(folder)
    adapted = attach(base, ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"], rank=2, lora_alpha=None)
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    return write_adapter(adapted, tmp_path / "adapter")


def spoil_adapter(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})


def test_an_adapter_that_fits(adapter: Path) -> None:
    assert load_model(adapter).name_or_path == str(adapter)


def test_an_adapter_of_other_weights(adapter: Path) -> None:
    whole = load_file(adapter / "adapter_model.safetensors")
    spoil_adapter(adapter, lambda tensors: tensors.pop(next(iter(tensors))))
    with pytest.raises(ExpungeError, match=r"adapter in .* does not fit .*the file lacks 1 weight"):
        load_model(adapter)
    save_file(
        whole | {"base_model.model.elsewhere.lora_A.weight": torch.ones(2, 2)}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(ExpungeError, match="the file holds 1 weight that the model has no place for"):
        load_model(adapter)
    save_file({name: torch.ones(3, 3) for name in whole}, adapter / "adapter_model.safetensors")
    with pytest.raises(ExpungeError, match=r"does not fit the model: .* size mismatch"):
        load_model(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ExpungeError, match="damaged"):
        load_model(adapter)


@pytest.mark.parametrize("config", ['{"peft_type": "LORA", "r": ', "[]", '{"peft_type": "NONE"}', "[" * 100_000])
def test_an_adapter_with_a_damaged_configuration(config: str, adapter: Path, folder: Path) -> None:
    (adapter / "adapter_config.json").write_text(config)
    with pytest.raises(ExpungeError, match="adapter"):
        load_adapter(load_model(folder), adapter)
    for load in (*LOADERS, load_tokenizer):
        with pytest.raises(ExpungeError, match="adapter"):
            load(adapter)


def test_adapters_that_lead_back_to_themselves(adapter: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    for one, base in ((adapter, other), (other, adapter)):
        config = json.loads((one / "adapter_config.json").read_text())
        (one / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    for load in (*LOADERS, load_tokenizer):
        with pytest.raises(ExpungeError, match="leads back to"):
            load(adapter)


@pytest.mark.parametrize("device", ["flub", "cuda:99", "meta", "cpu:x", ""])
def test_devices_that_are_not_there(device: Any, folder: Path) -> None:
    with pytest.raises(ExpungeError, match="device must be"):
        load_model(folder, device=device)
    check_device("cpu")


def test_a_skeleton_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="no model folder"):
        skeleton(tmp_path / "nowhere")
