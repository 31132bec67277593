"""Packed rows show what padded rows show: losses, gradients, hidden states, on every architecture."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, modeling_flash_attention_utils

import zoo
from expunge.core.batch import Batch, Encoded, collate
from expunge.models import packing
from expunge.models.anatomy import backbone
from expunge.models.observe import Observed, observe, observe_inputs
from expunge.models.packing import BY_ROWS, Packs, packed, packs_of
from expunge.models.vocabulary_head import head_of

LENGTHS = {"forget": (30, 5, 47), "retain": (22, 41)}
"""Of rows; most are longer than the sliding windows of the zoo, 16 tokens."""
NEEDS = frozenset({"token_logprobs", "hidden", "states"})


def batches(lengths: Mapping[str, tuple[int, ...]] = LENGTHS) -> dict[str, Batch]:
    drawn = torch.Generator().manual_seed(0)
    return {
        stream: collate([Encoded(ids(length, drawn), 1 + length // 4, ended=False, truncated=0) for length in of])
        for stream, of in lengths.items()
    }


def ids(length: int, drawn: torch.Generator) -> tuple[int, ...]:
    return tuple(torch.randint(3, len(zoo.tokenizer()), (length,), generator=drawn).tolist())


def seen_and_gradients(model: nn.Module, given: Mapping[str, Batch]) -> tuple[dict[str, Observed], dict[str, Tensor]]:
    """What rows show, and the gradient of a loss that reads all of it."""
    model.zero_grad()
    seen = observe(model, given, dict.fromkeys(given, NEEDS), layer=1)
    loss = torch.zeros((), dtype=torch.float64)
    for weight, one in enumerate(seen.values(), 1):
        assert one.token_logprobs is not None and one.hidden is not None
        loss = loss + weight * one.token_logprobs.square().sum() + one.hidden.square().sum()
    loss.backward()
    return seen, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_same(model: nn.Module, given: Mapping[str, Batch], *, by_rows: bool) -> None:
    seen, gradients = seen_and_gradients(model, given)
    with packed(model, by_rows=by_rows):
        ours, theirs = seen_and_gradients(model, given)
    for stream, want in seen.items():
        for name in NEEDS:
            torch.testing.assert_close(getattr(ours[stream], name), getattr(want, name), rtol=1e-9, atol=1e-9)
    assert gradients.keys() == theirs.keys() and len(gradients) > 10
    for name, want in gradients.items():
        # Gemma's and GPT-Neo's softmax and norms round to float32 inside.
        assert float((theirs[name] - want).norm() / want.norm().clamp(min=1e-9)) < 1e-6, name


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
@pytest.mark.parametrize("longest", [4096, 60])
def test_same_as_padded(architecture: str, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_AT_MOST", longest)
    model = zoo.tiny_model(architecture).double()
    check_same(model, batches(), by_rows=False)
    if model.config._attn_implementation == "sdpa":
        check_same(model, batches(), by_rows=True)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
def test_same_as_padded_under_gradient_checkpointing(architecture: str) -> None:
    model = zoo.tiny_model(architecture).double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    _, want = seen_and_gradients(model, batches())
    model.activation_checkpointing_enable({"use_reentrant": False})
    with packed(model, by_rows=True):
        _, got = seen_and_gradients(model, batches())
    for name, gradient in want.items():
        assert float((got[name] - gradient).norm() / gradient.norm().clamp(min=1e-9)) < 1e-6, name


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def unbroken(packs: Packs, lengths: list[int]) -> dict[str, Any]:
        return {"position_ids": torch.arange(sum(lengths))[None]}

    monkeypatch.setattr(Packs, "inputs", unbroken)
    with pytest.raises(AssertionError):
        check_same(zoo.tiny_model().double(), batches(), by_rows=False)


def test_no_padding_is_computed_and_attention_stays_within_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes, attended = zoo.tiny_model(), [], []
    head_of(model)  # which tries the model once
    backbone(model).embed_tokens.register_forward_hook(lambda _m, inputs, _o: shapes.append(list(inputs[0].shape)))
    before = packing.sdpa_attention_forward

    def counted(module: nn.Module, query: Tensor, *arguments: Any, **given: Any) -> Any:
        attended.append(query.shape[2])
        return before(module, query, *arguments, **given)

    monkeypatch.setattr(packing, "sdpa_attention_forward", counted)
    lengths = [length for of in LENGTHS.values() for length in of]
    with packed(model, by_rows=True):
        observe(model, batches(), dict.fromkeys(LENGTHS, NEEDS), layer=1)
    assert shapes == [[1, sum(lengths)]]
    assert attended == lengths * 3  # blocks


def test_rows_of_equal_length_and_rows_that_hooks_look_at_are_not_packed() -> None:
    model, shapes = zoo.tiny_model(), []
    head_of(model)
    backbone(model).embed_tokens.register_forward_hook(lambda _m, inputs, _o: shapes.append(list(inputs[0].shape)))
    equal = batches({"rows": (9, 9, 9)})
    with packed(model, by_rows=True):
        observe(model, equal, {"rows": NEEDS}, layer=1)
        observe(model, batches(), dict.fromkeys(LENGTHS, NEEDS), layer=1, together=True)
    assert shapes == [[3, 9], [5, 47]]


def test_inputs_of_layers_are_shown_at_the_same_positions() -> None:
    model, batch = zoo.tiny_model().double(), batches()["forget"]
    layers = {"down": backbone(model).layers[1].mlp.down_proj}

    def sums(positions: str) -> tuple[int, Tensor]:
        shown: list[Tensor] = []
        count = observe_inputs(model, batch, layers, lambda _, inputs: shown.append(inputs), positions=positions)
        return count, torch.cat(shown).sum(0)

    for positions in ("predicting", "all"):
        want = sums(positions)
        with packed(model, by_rows=True):
            got = sums(positions)
        assert got[0] == want[0]
        torch.testing.assert_close(got[1], want[1])


def test_everything_is_put_back() -> None:
    model = zoo.tiny_model()
    with pytest.raises(KeyError), packed(model, by_rows=True):
        assert model.config._attn_implementation == BY_ROWS and packs_of(model) is not None
        raise KeyError
    assert model.config._attn_implementation == "sdpa" and packs_of(model) is None


def test_packs_by_hand() -> None:
    assert Packs(10, True).divided([4, 6, 1, 12, 3]) == [[0, 1], [2], [3], [4]]
    assert Packs(None, True).divided([4, 6, 1, 12, 3]) == [[0, 1, 2, 3, 4]]
    told = Packs(None, True).inputs([3, 1, 2])
    assert told["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == [0, 3, 4, 6]
    assert told["cu_seq_lens_q"].dtype == torch.int32 and told["max_length_q"] == told["max_length_k"] == 3
    assert Packs(None, False).inputs([3, 1]).keys() == {"position_ids"}


def flash_stand_in(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Plain attention in place of flash attention's two kernels; the ends of the rows that came."""
    came: list[list[int]] = []

    def attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, softmax_scale: float, **more: Any) -> Tensor:
        parts = [part.transpose(1, 2) for part in (query, key, value)]
        allowed = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).tril()
        if (window := more.get("window_size")) is not None:
            allowed = allowed.triu(-window[0])
        assert causal
        found = F.scaled_dot_product_attention(*parts, attn_mask=allowed, scale=softmax_scale, enable_gqa=True)
        return found.transpose(1, 2)

    def varlen(
        query: Tensor, key: Tensor, value: Tensor, *, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **more: Any
    ) -> Tensor:
        ends = cu_seqlens_q.tolist()
        came.append(ends)
        rows = [slice(first, end) for first, end in pairwise(ends)]
        assert cu_seqlens_k.tolist() == ends
        assert more.pop("max_seqlen_q") == more.pop("max_seqlen_k") == max(r.stop - r.start for r in rows)
        return torch.cat([attention(query[None, r], key[None, r], value[None, r], **more)[0] for r in rows])

    utils = modeling_flash_attention_utils
    supported = dict.fromkeys(
        ("dropout_p", "deterministic", "softcap", "s_aux", "learnable_sink", "block_table", "page_table"), False
    )
    supported |= dict.fromkeys(("window_size", "max_seqlen_q", "max_seqlen_k"), True) | {"cache_seqlens": False}

    def settings(**given: Any) -> dict[str, Any]:
        return utils._process_flash_attention_kwargs(**given, supports_mapping=supported)

    kernels = (attention, varlen, None, None, None), (settings, None)
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_, **__: kernels)
    return came


def with_flash(architecture: str) -> PreTrainedModel:
    model = zoo.tiny_model(architecture).double()
    model.config._attn_implementation = "flash_attention_2"
    return model


@pytest.mark.parametrize("architecture", [a for a in zoo.ARCHITECTURES if a not in ("gpt_neo", "gemma2")])
def test_flash_attention_is_told_the_ends_of_the_rows(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    came = flash_stand_in(monkeypatch)
    model = with_flash(architecture)
    check_same(model, batches(), by_rows=False)
    assert came and all(ends == [0, 30, 35, 82, 104, 145] for ends in came)
