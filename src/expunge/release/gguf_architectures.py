"""Architectures that can be written as GGUF: what the file must say of a model, and how its weights are laid out there.

Only those are here whose files another reader, that of transformers, loads, so that every export can be checked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from expunge.core.checks import ExpungeError

if TYPE_CHECKING:
    from gguf import GGUFWriter

Layout = Callable[[str, Tensor, PretrainedConfig], Tensor]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one architecture is written."""

    name: str
    """As GGUF calls it."""
    needs: Mapping[str, tuple[Any, ...]]
    """Settings of the configuration that the format has no place for, with the values that it takes for granted."""
    ropes: tuple[str, ...]
    """Kinds of rotary embeddings that can be written; empty: the architecture has none."""
    describe: "Callable[[GGUFWriter, PretrainedConfig], None]"
    """Writes the settings of a model."""
    layout: Layout
    """From the name of a parameter and its tensor, the tensor as it lies in the file."""
    unread: tuple[str, ...] = field(default=())
    """Settings that are written, and that the reader of transformers takes from its defaults instead."""


def architecture_of(config: PretrainedConfig) -> Architecture:
    """How a model is written.

    Raises:
        ExpungeError: its architecture is not among those that can be checked, or it uses something that the format
            cannot say.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ExpungeError(
            f"a model of type {kind} cannot be exported as GGUF: no other reader here loads such a file, so that the "
            f"export could not be checked. Known: {', '.join(sorted(ARCHITECTURES))}. Take form=merged."
        )
    found = ARCHITECTURES[kind]
    wrong = [
        f"{name} is {getattr(config, name)!r} and must be {' or '.join(map(repr, allowed))}"
        for name, allowed in found.needs.items()
        if getattr(config, name, allowed[0]) not in allowed
    ]
    rope = _rope(config).get("rope_type", "default") if found.ropes else None
    if rope is not None and rope not in found.ropes:
        wrong.append(f"its rotary embeddings are of type {rope} and must be {' or '.join(found.ropes)}")
    if kind == "gemma2" and config.query_pre_attn_scalar != config.head_dim:
        wrong.append("query_pre_attn_scalar is not head_dim, which the format takes for granted")
    if kind == "gpt2" and config.n_inner not in (None, 4 * config.n_embd):
        wrong.append(f"n_inner is {config.n_inner} and must be 4 * n_embd")
    if wrong:
        raise ExpungeError(f"this {kind} model cannot be exported as GGUF: {'; '.join(wrong)}. Take form=merged.")
    return found


def rope_factors(config: PretrainedConfig) -> Tensor | None:
    """By what the frequencies of Llama 3's rotary embeddings are divided, [head_dim / 2]; None where they are plain."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if not getattr(config, "rope_parameters", None) or _rope(config).get("rope_type", "default") == "default":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS[_rope(config)["rope_type"]](config, torch.device("cpu"))
    size = _head_size(config)
    plain = 1.0 / _rope(config)["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    factors: Tensor = plain / scaled
    return factors


def _rope(config: PretrainedConfig) -> Mapping[str, Any]:
    return dict(config.rope_parameters or {})


def _head_size(config: PretrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _decoder(writer: "GGUFWriter", config: PretrainedConfig) -> None:
    """The settings that decoders with rotary embeddings and RMS norms share."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_vocab_size(config.vocab_size)


def _gemma2(writer: "GGUFWriter", config: PretrainedConfig) -> None:
    _decoder(writer, config)
    writer.add_sliding_window(config.sliding_window)
    for value, add in (
        (config.attn_logit_softcapping, writer.add_attn_logit_softcapping),
        (config.final_logit_softcapping, writer.add_final_logit_softcapping),
    ):
        add(value)


def _gpt2(writer: "GGUFWriter", config: PretrainedConfig) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _as_it_is(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    return tensor


def _interleaved(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    """The rows of a head as pairs that are rotated together, where transformers has the halves one after the other."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, count in heads.items():
        if f".{projection}." in name:
            halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
            return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def _norms_from_one(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    """Norms as factors, where transformers has what they differ from 1."""
    return tensor.float() + 1 if name.endswith("norm.weight") else tensor


_TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def _out_in(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    """Matrices as [out, in], where GPT-2 in transformers has [in, out]."""
    return tensor.T if name.endswith(_TURNED) else tensor


_PLAIN = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)}
_LLAMA = {"name": "llama", "describe": _decoder, "layout": _interleaved}
_QWEN = {"ropes": ("default",), "describe": _decoder, "layout": _as_it_is}

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(**_LLAMA, needs=_PLAIN, ropes=("default", "llama3"), unread=("rope_parameters",)),  # type: ignore[arg-type]
    "mistral": Architecture(**_LLAMA, needs={"hidden_act": ("silu",), "sliding_window": (None,)}, ropes=("default",)),  # type: ignore[arg-type]
    "qwen2": Architecture(name="qwen2", needs={"hidden_act": ("silu",), "use_sliding_window": (False,)}, **_QWEN),  # type: ignore[arg-type]
    "qwen3": Architecture(
        name="qwen3",
        needs={"hidden_act": ("silu",), "attention_bias": (False,), "use_sliding_window": (False,)},
        unread=("head_dim",),
        **_QWEN,  # type: ignore[arg-type]
    ),
    "gemma2": Architecture(
        name="gemma2",
        needs={"hidden_activation": ("gelu_pytorch_tanh",), "attention_bias": (False,)},
        ropes=("default",),
        describe=_gemma2,
        layout=_norms_from_one,
        unread=("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    ),
    "gpt2": Architecture(
        name="gpt2",
        needs={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
        },
        ropes=(),
        describe=_gpt2,
        layout=_out_in,
        unread=("n_positions",),
    ),
}
"""By `model_type` of the configuration."""
