"""A sweep: greedy generation against transformers' own, on every causal family that the installed version knows."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from expunge.models.generate import continuations

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LARGEST = 12_000_000
SECONDS = 60
KNOWN = 90
"""Families that must be made of these sizes and compared, at least; others want sizes of their own names."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def made(family: str) -> PreTrainedModel | None:
    """A small random model; None where these sizes make none."""
    try:
        config = AutoConfig.for_model(family, **SIZES)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        if sum(p.numel() for p in skeleton.parameters()) > LARGEST:
            return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES)).eval()
    except Exception:
        return None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model


def theirs(model: PreTrainedModel, prompt: tuple[int, ...]) -> list[int] | None:
    """What `generate` gives; None where it fails itself."""
    ids = torch.tensor([prompt])
    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": [], "pad_token_id": 0}
    try:
        return model.generate(ids, attention_mask=torch.ones_like(ids), **how)[0, len(prompt) :].tolist()  # type: ignore[operator]
    except Exception:
        return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_family_gives_what_generate_gives() -> None:
    generator = torch.Generator().manual_seed(1)
    prompts = [tuple(torch.randint(5, 64, (n,), generator=generator).tolist()) for n in (20, 9, 14)]
    compared, differing = 0, {}
    for family in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        with limited():
            model = made(family)
            expected = [] if model is None else [theirs(model, prompt) for prompt in prompts]
            if model is None or None in expected:
                continue
            compared += 1
            together = continuations(model, dict.fromkeys(prompts, 12), eos_ids=[])
            if [together[prompt] for prompt in prompts] != expected:
                differing[family] = expected, together
    assert not differing
    assert compared >= KNOWN
