"""GGUF files are read back by transformers, which knows nothing of how they were written, and give the same answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import zoo
from expunge.attack.attacks.quantize import q8_0
from expunge.core.checks import ExpungeError
from expunge.data.template import Template
from expunge.release import gguf_architectures
from expunge.release.gguf_architectures import ARCHITECTURES, architecture_of, rope_factors
from expunge.release.gguf_file import FILE_TYPES, check_gguf, write_gguf
from expunge.release.parity import Parity, compared, read_model, rows_of, scored, tolerance

gguf = pytest.importorskip("gguf")

CHANGES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gpt2": {},
}
TIED = {"tie_word_embeddings": True}


def model_of(architecture: str, **changes: object) -> PreTrainedModel:
    """A random model whose norms and biases are no plain ones and zeros, so that each of them counts."""
    model = zoo.tiny_model(architecture, **{**CHANGES[architecture], **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def parity(model: PreTrainedModel, kind: str, file: Path) -> tuple[Parity, ...]:
    """How far a file is from the model that was written into it."""
    write_gguf(model, zoo.tokenizer(), file, kind=kind, name="tiny")  # type: ignore[arg-type]
    rows = rows_of(zoo.corpus(), zoo.tokenizer(), template=Template(), max_length=128, limit=3)
    return compared(rows, scored(model, rows), scored(read_model(file, model.config), rows), tolerance("float32", kind))  # type: ignore[arg-type]


def tensors(file: Path) -> dict[str, np.ndarray]:
    return {one.name: gguf.dequantize(one.data, one.tensor_type) for one in gguf.GGUFReader(file).tensors}


def test_every_architecture_is_tested() -> None:
    assert {*CHANGES} == {*ARCHITECTURES}


@pytest.mark.parametrize("changes", [{}, TIED], ids=["apart", "tied"])
@pytest.mark.parametrize("architecture", CHANGES)
def test_another_reader_finds_the_same_model(architecture: str, changes: dict[str, object], tmp_path: Path) -> None:
    model = model_of(architecture, **changes)
    found = parity(model, "f32", tmp_path / "m.gguf")
    assert [one.largest for one in found] == [0.0, 0.0]
    assert ("output.weight" in tensors(tmp_path / "m.gguf")) == (not changes and not model.config.tie_word_embeddings)


@pytest.mark.parametrize("architecture", CHANGES)
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_rounded_weights_are_near(architecture: str, kind: str, tmp_path: Path) -> None:
    for one in parity(model_of(architecture), kind, tmp_path / "m.gguf"):
        assert 0 < one.largest <= one.tolerance and one.missed == ()


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_wrong_layout_is_found_in_every_row(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(ARCHITECTURES[architecture], layout=gguf_architectures._as_it_is)
    monkeypatch.setitem(gguf_architectures.ARCHITECTURES, architecture, wrong)  # type: ignore[arg-type]
    for one in parity(model_of(architecture), "q8_0", tmp_path / "m.gguf"):
        assert one.missed == one.rows


def test_halves_become_pairs() -> None:
    # One head of four rows: the halves (0, 1) and (2, 3) become the pairs (0, 2) and (1, 3).
    config = zoo.tiny_model("llama", num_attention_heads=1, num_key_value_heads=1, head_dim=4, hidden_size=4).config
    found = ARCHITECTURES["llama"].layout("model.layers.0.self_attn.q_proj.weight", torch.arange(4.0)[:, None], config)
    assert found[:, 0].tolist() == [0, 2, 1, 3]


def test_q8_0_is_what_the_attack_rounds_to(tmp_path: Path) -> None:
    model = model_of("qwen2")
    write_gguf(model, zoo.tokenizer(), tmp_path / "m.gguf", kind="q8_0", name="tiny")
    found = tensors(tmp_path / "m.gguf")["blk.1.attn_output.weight"]
    expected = q8_0(model.model.layers[1].self_attn.o_proj.weight.detach())
    assert np.array_equal(found, expected.numpy())


def test_what_a_type_does_not_fit_stays_wider(tmp_path: Path) -> None:
    write_gguf(model_of("llama"), zoo.tokenizer(), tmp_path / "m.gguf", kind="q8_0", name="tiny")
    kinds = {one.name: one.tensor_type.name for one in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # rows of 48 are no whole number of blocks


def test_the_frequencies_of_llama_3() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 64
    config = zoo.tiny_model("llama", head_dim=16, rope_parameters=rope).config
    factors = rope_factors(config)
    assert factors is not None and factors.shape == (8,)
    # The first turns in 6 tokens, far below 64 / 4: untouched. The last turns in far more than 64: 8 times slower.
    assert factors[0] == 1 and factors[-1] == pytest.approx(8)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    assert torch.allclose(1 / (5e5 ** (torch.arange(0, 16, 2) / 16)) / factors, scaled)
    assert rope_factors(zoo.tiny_model("llama").config) is None
    assert rope_factors(zoo.tiny_model("gpt2").config) is None


def test_llama_3_is_written_with_its_factors(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 64
    model = model_of("llama", rope_parameters=rope)
    assert [one.largest for one in parity(model, "f32", tmp_path / "m.gguf")] == [0.0, 0.0]
    assert np.allclose(tensors(tmp_path / "m.gguf")["rope_freqs.weight"], rope_factors(model.config))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: zoo.tiny_model("gpt_neox"), "a model of type gpt_neox cannot be exported.*no other reader"),
        (lambda: zoo.tiny_model("mistral"), "sliding_window is 16 and must be None"),
        (lambda: zoo.tiny_model("llama", attention_bias=True), "attention_bias is True"),
        (lambda: zoo.tiny_model("gemma2"), "query_pre_attn_scalar is not head_dim"),
        (lambda: zoo.tiny_model("gpt2", n_inner=40), "n_inner is 40"),
        (
            lambda: zoo.tiny_model("qwen2", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "rotary embeddings are of type linear and must be default",
        ),
    ],
)
def test_what_the_format_cannot_say_is_refused(make: Callable[[], PreTrainedModel], why: str) -> None:
    with pytest.raises(ExpungeError, match=f"{why}.*form=merged"):
        architecture_of(make().config)


def test_a_type_that_is_none() -> None:
    with pytest.raises(ExpungeError, match=f"q4_9.*{', '.join(sorted(FILE_TYPES))}"):
        check_gguf("q4_9")


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExpungeError, match=r"pip install 'expunge\[gguf\]'"):
        check_gguf("f16")
