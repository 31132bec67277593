"""Greedy generation against transformers' own, over architectures with every kind of position and cache."""

import pytest
import torch
from torch import nn

from expunge.core.checks import ExpungeError
from expunge.models import generate
from expunge.models.generate import greedy
from zoo import ARCHITECTURES, tiny_model

VOCABULARY = 61
EOS = {7, 11}


def _made(architecture: str) -> nn.Module:
    small = {"gpt2": {"n_positions": 64}, "gpt_neo": {"window_size": 5}}.get(
        architecture, {"max_position_embeddings": 64}
    )
    window = {"sliding_window": 5} if "sliding_window" in ARCHITECTURES[architecture] else {}
    return tiny_model(architecture, vocab_size=VOCABULARY, seed=3, **small, **window)


def _prompts() -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 9, 1, 12, 9, 5, 7]
    prompts = [tuple(torch.randint(12, VOCABULARY, (n,), generator=generator).tolist()) for n in lengths]
    return [*prompts, prompts[1]]


def _theirs(model: nn.Module, prompt: tuple[int, ...], new: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=sorted(EOS),
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return out[: next((i for i, token in enumerate(out) if token in EOS), len(out))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_generate_of_transformers_and_does_not_depend_on_the_batch(architecture):
    model, prompts = _made(architecture), _prompts()
    expected = [_theirs(model, prompt, 12) for prompt in prompts]
    assert len({tuple(e) for e in expected}) > 3  # a model that always says the same would show nothing
    for batch_size in (1, 3, None):
        assert greedy(model, prompts, max_new_tokens=12, eos_ids=EOS, batch_size=batch_size) == expected


def test_some_rows_end_early_and_are_dropped():
    model, prompts = _made("llama"), _prompts()
    free = greedy(model, prompts, max_new_tokens=12, eos_ids=set())
    ends = {free[0][2], free[3][5]}  # tokens that are known to come
    widths = []
    model.register_forward_pre_hook(lambda _m, _a, kw: widths.append(len(kw["input_ids"])), with_kwargs=True)
    cut = greedy(model, prompts, max_new_tokens=12, eos_ids=ends)
    for ours, whole in zip(cut, free, strict=True):
        assert ours == whole[: next((i for i, token in enumerate(whole) if token in ends), len(whole))]
    assert widths[0] == len(set(prompts))  # the prompt that stands twice is computed once
    assert widths[-1] < widths[0]


def test_a_cache_that_cannot_drop_rows_gives_the_same(monkeypatch):
    model, prompts = _made("gpt2"), _prompts()
    ends = {greedy(model, prompts, max_new_tokens=12, eos_ids=set())[0][2]}
    expected = greedy(model, prompts, max_new_tokens=12, eos_ids=ends)
    monkeypatch.setattr(generate, "_can_drop_rows", lambda cache: False)
    assert greedy(model, prompts, max_new_tokens=12, eos_ids=ends) == expected


def test_too_little_memory_halves_the_batch_and_goes_on():
    model, prompts = _made("llama"), _prompts()
    expected = greedy(model, prompts, max_new_tokens=6, eos_ids=EOS)
    tried = []

    def hook(_module, _args, kwargs):
        tried.append(len(kwargs["input_ids"]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(hook, with_kwargs=True)
    assert greedy(model, prompts, max_new_tokens=6, eos_ids=EOS) == expected
    assert tried[0] == 7 and 3 in tried and tried[2] == 1  # 7, then 3, then 1 at a time


def test_too_little_memory_for_one_row_is_an_error():
    model = _made("llama")

    def hook(_module, _args, _kwargs):
        raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError):
        greedy(model, [(20,)], max_new_tokens=2, eos_ids=EOS)


@pytest.mark.parametrize("batch_size", [1, None])
def test_generation_stops_where_the_positions_end_and_says_so(batch_size):
    model = _made("gpt2")  # 64 positions
    long, short = tuple(range(12, 12 + 40)) + tuple(range(12, 12 + 20)), (20, 21)
    with pytest.warns(UserWarning, match=r"1 of 2 generations stopped .* positions for 64"):
        said = greedy(model, [long, short], max_new_tokens=10, eos_ids=set(), batch_size=batch_size)
    # 60 tokens stand on positions 0-59; positions 60-63 take four new ones, whose last predicts a fifth.
    assert [len(s) for s in said] == [5, 10]
    assert said[1] == greedy(model, [short], max_new_tokens=10, eos_ids=set())[0]


def test_the_batch_keeps_its_budget_and_progress_is_told():
    told = []

    def progress(what, done, of, numbers):
        told.append((done, of))

    greedy(_made("llama"), _prompts(), max_new_tokens=8, eos_ids=EOS, batch_tokens=40, progress=progress)
    # lengths 12 9 | 9 7 | 5 3 1: 40 // (12 + 8) = 2 rows, 40 // (9 + 8) = 2, 40 // (5 + 8) = 3
    assert told == [(2, 7), (4, 7), (7, 7)]


def test_bad_prompts_are_refused():
    model = _made("gpt2")
    with pytest.raises(ExpungeError, match="without tokens"):
        greedy(model, [()], max_new_tokens=2, eos_ids=EOS)
    with pytest.raises(ExpungeError, match=r"65 tokens.*64"):
        greedy(model, [tuple([20] * 65)], max_new_tokens=2, eos_ids=EOS)
    with pytest.raises(ExpungeError, match="max_new_tokens"):
        greedy(model, [(20,)], max_new_tokens=0, eos_ids=EOS)
    assert greedy(model, [], max_new_tokens=2, eos_ids=EOS) == []
