"""Greedy generation against transformers' own, over architectures with every kind of position and cache."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

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


FAMILIES = {
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "head_dim": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 16},
    "falcon_mamba": {"state_size": 8},
    "rwkv": {"attention_hidden_size": 32, "context_length": 128},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4},  # without a cache
    "minimax": {"num_local_experts": 2},  # with one of its own
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_without_a_key_value_cache(family: str) -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, **FAMILIES[family]}
    if family == "minimax":
        sizes |= {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    prompts = [*_prompts(), tuple(range(12, 34))]
    expected = [_theirs(model, prompt, 9) for prompt in prompts]
    assert len({tuple(e) for e in expected}) > 3
    assert greedy(model, prompts, max_new_tokens=9, eos_ids=EOS) == expected


def test_a_row_alone_keeps_the_rules_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends, limits of positions, sampling and foreign generation settings, in the slow way as in the fast one."""
    model, prompts = _made("gpt2"), [*_prompts(), tuple(range(12, 60))]
    draw = generate.sampler(temperature=1.0, seed=0, device=torch.device("cpu"))
    wanted = dict.fromkeys(prompts, 20)
    with pytest.warns(UserWarning, match="1 of 8 generations stopped"):
        fast = generate.continuations(model, wanted, eos_ids=EOS)
    monkeypatch.setattr(generate, "_computes_together", lambda *_: False)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.max_length = 3
    with pytest.warns(UserWarning, match="1 of 8 generations stopped"):
        assert generate.continuations(model, wanted, eos_ids=EOS) == fast
    assert model.generation_config.repetition_penalty == 5.0
    assert generate.continuations(model, {prompts[0]: 9}, eos_ids=(), pick=draw) != {prompts[0]: fast[prompts[0]][:9]}


def test_the_fast_way_is_kept_where_it_is_right() -> None:
    for architecture in ARCHITECTURES:
        assert generate._computes_together(_made(architecture), _prompts()[1]), architecture


def _streamed(model: nn.Module, prompts: list[tuple[int, ...]], new: int) -> tuple[list[list[int]], int]:
    """What a stream gives by row, its end token left out, and in how many steps."""
    found: list[list[int]] = [[] for _ in prompts]
    steps = 0
    for step in generate.stream(model, prompts, max_new_tokens=new, eos_ids=EOS):
        steps += 1
        for row, token in step.items():
            found[row].append(token)
    return [[token for token in tokens if token not in EOS] for tokens in found], steps


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_stream_gives_the_same_a_token_at_a_time(architecture: str) -> None:
    model, prompts = _made(architecture), _prompts()
    expected = [_theirs(model, prompt, 12) for prompt in prompts]
    assert len({tuple(e) for e in expected}) > 3
    found, steps = _streamed(model, prompts, 12)
    assert found == expected and steps == max(min(len(tokens) + 1, 12) for tokens in expected)


def test_an_end_token_is_the_last_of_its_row() -> None:
    model, prompts = _made("llama"), _prompts()[:1]
    (free,) = greedy(model, prompts, max_new_tokens=12, eos_ids=set())
    end = free[3]
    steps = list(generate.stream(model, prompts, max_new_tokens=12, eos_ids={end}))
    assert [step[0] for step in steps] == free[: free.index(end) + 1]


def test_a_stream_of_a_model_that_generates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = _made("gpt2"), [*_prompts(), tuple(range(12, 60))]  # the last one has positions for 17 more
    together, _ = _streamed(model, prompts, 20)
    assert len(together[-1]) == 17
    monkeypatch.setattr(generate, "_computes_together", lambda *_: False)
    assert _streamed(model, prompts, 20)[0] == together


def test_a_stream_refuses_what_it_cannot_continue() -> None:
    model = _made("gpt2")
    assert list(generate.stream(model, [], max_new_tokens=3, eos_ids=EOS)) == []
    with pytest.raises(ExpungeError, match="without tokens"):
        next(generate.stream(model, [()], max_new_tokens=3, eos_ids=EOS))
    with pytest.raises(ExpungeError, match="has 65 tokens, and the model has positions for 64"):
        next(generate.stream(model, [(12,) * 65], max_new_tokens=3, eos_ids=EOS))
    with torch.enable_grad():  # whoever watches computes with gradients as before
        next(generate.stream(model, [(12, 13)], max_new_tokens=3, eos_ids=EOS))
        assert torch.is_grad_enabled()
