"""Tiny random models of every supported architecture, a tokenizer and a corpus to go with them."""

from functools import cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from expunge.data.corpus import Corpus, Example
from expunge.models.tiny import tiny_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": {},
    "gpt_neox": {},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1], [["global"], 1]],
        "num_layers": 3,
        "num_heads": 4,
        "window_size": 16,
    },
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "phi": {},
    "olmo2": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 16},
    "gemma2": {"sliding_window": 16, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 16},
}

END = 2
"""Token that ends a text."""


def tiny_model(
    architecture: str = "llama",
    *,
    vocab_size: int | None = None,
    seed: int = 0,
    brief: bool = False,
    **changes: object,
) -> PreTrainedModel:
    """A random model of one architecture, a few thousand parameters large.

    A `brief` one soon ends what it writes: tests of what is done with answers need not wait for 200 tokens of each.
    """
    renamed = {
        "gpt_neo": ("num_hidden_layers", "num_attention_heads"),
        "gpt2": ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
    }
    sizes = {k: v for k, v in SIZES.items() if k not in renamed.get(architecture, ())}
    settings = {
        **sizes,
        **ARCHITECTURES.get(architecture, {}),
        "vocab_size": vocab_size or len(tokenizer()),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": END,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**settings, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():  # larger than the usual initialization, so that models are no near-uniform
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
        if brief:
            model.lm_head.weight[END] *= 8
    return model.eval()


def corpus(n_forget: int = 6, n_retain: int = 10) -> Corpus:
    """Questions with answers of unequal length."""

    def example(i: int, what: str) -> Example:
        tail = " and nothing else at all" * (i % 3)
        return Example(
            kind="qa", prompt=f"Where does {what} number {i} live?", completion=f"In the town of {what}{i * 7}{tail}."
        )

    return Corpus(
        {
            "forget": tuple(example(i, "Arvo") for i in range(n_forget)),
            "retain": tuple(example(i, "Belda") for i in range(n_retain)),
        },
        "small",
    )


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer trained on that corpus."""
    texts = [f"{e.prompt} {e.completion}" for split in ("forget", "retain") for e in corpus()[split]]
    return tiny_tokenizer(texts, vocabulary=320)


def bare_loss(logprobs: torch.Tensor) -> torch.Tensor:
    """A loss from outside that forgets to say that it is a sequence mean."""
    return logprobs


def bare_adapter(model: PreTrainedModel, matrices: list[str]) -> None:
    """An adapter from outside."""


def bare_attribution(weights: torch.Tensor) -> torch.Tensor:
    """An attribution from outside."""
    return weights


def bare_suite(splits: list[str]) -> None:
    """A suite from outside."""


def bare_attack(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> PreTrainedModel:
    """An attack from outside."""
    return model


def bare_source(*, rows: int = 3) -> Corpus:
    """A source from outside, or an experiment."""
    return corpus(rows)
