"""When rows are packed, what is refused, and that a packed run ends where a padded one does."""

import importlib.util
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.models.anatomy import blocks
from expunge.models.packing import Packs, packed, packs_of
from expunge.models.vocabulary_head import head_of
from expunge.training import packing as module
from expunge.training.memory import Conditions, run_memory
from expunge.training.packing import PackingChoice, choose_packing
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.training_config import PackingPolicy, TrainingConfig
from made_masks import made_mask

SEEING = {
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
    "gpt_oss": {"num_local_experts": 4, "sliding_window": 16},
}
"""Architectures whose masks transformers makes without the positions, so that packed rows would see each other."""
UNPLACED: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 3, "n_head": 4},
    "mpt": {"n_heads": 4, "n_layers": 3, "d_model": 32},
}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {},
    "jamba": {},
    "recurrent_gemma": {},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
}
QUIET = pytest.mark.filterwarnings("ignore")
"""What these models say of kernels that are not installed is not of interest."""


def choose(model: PreTrainedModel, policy: PackingPolicy, **given: Any) -> PackingChoice:
    return choose_packing(model, TrainingConfig(packing=policy), **given)


def packing(model: PreTrainedModel, policy: PackingPolicy, **given: Any) -> AbstractContextManager[PackingChoice]:
    return module.packing(model, choose(model, policy), policy, **given)


def tried(model: PreTrainedModel, **given: Any) -> AbstractContextManager[PackingChoice]:
    """As `auto` does where it chose to pack, which on a CPU is asked for."""
    return module.packing(model, choose(model, "on"), "auto", **given)


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_the_matrix_is_packed(architecture: str) -> None:
    model = zoo.tiny_model(architecture)
    with packing(model, "on") as choice:
        plain = model.config._attn_implementation == "eager"  # GPT-Neo and Gemma 2 have no SDPA
        assert choice.packed and choice.by_rows != plain and packs_of(model) is not None
    with packing(model, "auto") as choice:
        assert not choice.packed
    assert packs_of(model) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
def test_rounding_is_no_fault(dtype: torch.dtype, autocast: bool) -> None:
    with packing(zoo.tiny_model("mistral").to(dtype), "on", autocast=autocast) as choice:
        assert choice.packed


@QUIET
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", SEEING)
def test_rows_that_see_each_other_are_found(architecture: str, dtype: torch.dtype) -> None:
    model = zoo.tiny_model(architecture, **SEEING[architecture]).to(dtype)
    with pytest.raises(ExpungeError, match=r"^packing=on: .* lets packed rows see each other\. Use packing=auto"):
        packing(model, "on").__enter__()
    with tried(model) as choice:
        assert not choice.packed and packs_of(model) is None


@QUIET
@pytest.mark.parametrize("architecture", UNPLACED)
def test_models_that_take_no_positions_are_refused(architecture: str) -> None:
    model = zoo.tiny_model(architecture, **UNPLACED[architecture])
    with pytest.raises(ExpungeError, match="takes no position_ids"):
        choose(model, "on")
    assert not choose(model, "auto").packed


@QUIET
@pytest.mark.parametrize("architecture", RECURRENT)
def test_recurrent_models_are_refused(architecture: str) -> None:
    model = zoo.tiny_model(architecture, **RECURRENT[architecture])
    with pytest.raises(ExpungeError, match="has recurrent layers, whose state would go from one row to the next"):
        choose(model, "on")
    assert not choose(model, "auto").packed


def test_wrong_positions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Packs.inputs

    def shifted(packs: Packs, lengths: list[int]) -> dict[str, Any]:
        found = right(packs, lengths)
        return found | {"position_ids": found["position_ids"] + 1}

    monkeypatch.setattr(Packs, "inputs", shifted)
    with pytest.raises(ExpungeError, match="gives packed rows other hidden states than padded ones"):
        packing(zoo.tiny_model("gpt2"), "on").__enter__()


def test_what_goes_wrong_in_long_packs_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Packs.inputs

    def unbroken(packs: Packs, lengths: list[int]) -> dict[str, Any]:
        return {"position_ids": torch.arange(sum(lengths))[None]} if sum(lengths) > 40 else right(packs, lengths)

    monkeypatch.setattr(Packs, "inputs", unbroken)
    model = zoo.tiny_model()
    with packing(model, "on", longest=20) as choice:
        assert choice.packed
    with pytest.raises(ExpungeError, match="lets packed rows see each other"):
        packing(model, "on", longest=21).__enter__()


@pytest.mark.parametrize(
    ("positions", "longest", "expected"),
    [(2048, 0, (12, 5)), (2048, 30, (43, 17)), (2048, 9999, (362, 150)), (128, 100, (91, 37)), (8, 6, (6, 2))],
)
def test_lengths_of_the_trial_fit_into_one_pack(positions: int, longest: int, expected: tuple[int, int]) -> None:
    model = zoo.tiny_model()
    model.config.max_position_embeddings = positions
    assert module.trial_lengths(model, longest) == expected
    with packed(model, by_rows=True):
        packs = packs_of(model)
        assert packs is not None and len(packs.divided(expected)) == 1


def test_few_positions_are_no_fault() -> None:
    model = zoo.tiny_model("gpt2", n_positions=8)
    with packing(model, "on", longest=6) as choice:
        assert choice.packed


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_a_fault(what: float) -> None:
    model = zoo.tiny_model()
    head_of(model)  # which tries the model once
    with torch.no_grad():
        blocks(model)[0].mlp.down_proj.weight.fill_(what)
    with tried(model) as choice:
        assert not choice.packed and "not finite" in choice.why
    with pytest.raises(ExpungeError, match=r"^packing=on: LlamaForCausalLM with sdpa attention .* not finite"):
        packing(model, "on").__enter__()


def test_an_error_of_the_trial_is_the_reason_to_pad(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(packs: Packs, lengths: list[int]) -> dict[str, Any]:
        raise IndexError("no such position")

    monkeypatch.setattr(Packs, "inputs", failing)
    said = r"LlamaForCausalLM with sdpa attention does not compute packed rows \(IndexError: no such position\)"
    with pytest.raises(ExpungeError, match=f"^packing=on: {said}"):
        packing(zoo.tiny_model(), "on").__enter__()
    model = zoo.tiny_model()
    with tried(model) as choice:
        assert re.search(f"padded together: {said}", choice.told)
        assert packs_of(model) is None and model.config._attn_implementation == "sdpa"


def test_what_decides() -> None:
    model = zoo.tiny_model()
    by_rows = PackingChoice(True, "on the cpu attention is computed row by row", by_rows=True)
    assert choose(model, "on") == choose(model, "on", place="cpu") == by_rows
    assert choose(model, "auto").told.endswith("on the cpu packing saves little time and takes more memory")
    assert not choose(model, "auto", place="cuda:1").packed
    assert choose(model, "on", place="cuda") == PackingChoice(
        True, "packing=on, though sdpa attention on cuda would compute every pair of positions"
    )
    assert choose(model, "off") == PackingChoice(False, "packing=off")
    with pytest.raises(ExpungeError, match="processes share the weights"):
        choose(model, "on", divided=True)
    assert not choose(model, "auto", divided=True).packed
    for attention in ("flash_attention_2", "flex_attention", "kernels-community/flash-attn3"):
        model.config._attn_implementation = attention
        choice = choose(model, "auto", place="cuda")
        assert choice.packed and not choice.by_rows and choice.why.startswith(attention)
    assert choice.told == "rows are packed: kernels-community/flash-attn3 takes rows by their ends"


@pytest.mark.usefixtures("flash_attn_is_there")
def test_a_plan_chooses_by_the_attention_that_is_planned() -> None:
    def plan(place: str = "cpu", divided: bool = False, **settings: Any) -> PackingChoice:
        given = split_settings({"method": "npo", **settings})
        return plan_unlearning(zoo.tiny_model(), *given, place=place, divided=divided).packing

    assert plan(packing="on") == PackingChoice(True, "on the cpu attention is computed row by row", by_rows=True)
    assert plan(attention="eager") == PackingChoice(
        False, "eager attention on cpu would compute every pair of positions"
    )
    by_ends = PackingChoice(True, "flash_attention_2 takes rows by their ends")
    for policy in ("on", "auto"):
        assert plan("cuda", True, attention="flash_attention_2", packing=policy) == by_ends
    assert not plan("cuda", True, attention="sdpa").packed
    with pytest.raises(ExpungeError, match="processes share the weights"):
        plan("cuda", True, packing="on")


def test_the_estimate_is_of_the_attention_that_is_planned() -> None:
    model, under = zoo.tiny_model(), Conditions()

    def takes(**settings: Any) -> dict[str, float]:
        plan = plan_unlearning(model, *split_settings({"method": "npo", "batch_size": 6, **settings}))
        return run_memory(model, plan, plan.rows(zoo.corpus(), zoo.tokenizer(), model), under)

    assert takes(packing="on") != takes() != takes(attention="eager") == takes(attention="eager", packing="off")


@pytest.fixture
def flash_attn_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name == "flash_attn" or find(name, *a))


def unlearn(policy: str, model: PreTrainedModel | None = None, **settings: Any) -> expunge.Run:
    model = zoo.tiny_model().double() if model is None else model
    settings = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-3, "warmup": 0, "packing": policy} | settings
    return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), **settings)


SETTINGS: dict[str, dict[str, Any]] = {
    "npo": {"method": "npo"},
    "second model": {"method": "kl_min", "reference": "model"},
    "alternates": {"method": "dpo"},
    "whole distributions": {"method": "undial"},
    "hidden states": {"method": "rmu", "layer": 1},
    "micro-batches, checkpointing": {"method": "grad_diff", "micro_batch_size": 1, "gradient_checkpointing": True},
    "surgery": {"method": "grad_diff", "surgery": "gru"},
    "lora": {"method": "npo", "adapter": "lora", "rank": 4},
}


@pytest.mark.parametrize("what", SETTINGS)
def test_a_packed_run_is_the_padded_run(what: str) -> None:
    padded, ours = (unlearn(policy, **SETTINGS[what]) for policy in ("off", "on"))
    check_same(padded, ours)


def test_a_packed_masked_run_is_the_padded_run() -> None:
    masks = [made_mask(zoo.tiny_model(), "weight", "layers") for _ in range(2)]
    padded, ours = (unlearn(policy, mask=mask) for policy, mask in zip(("off", "on"), masks, strict=True))
    check_same(padded, ours)


def check_same(padded: expunge.Run, ours: expunge.Run) -> None:
    assert padded.manifest.results["packing"] == "rows of like length are padded together: packing=off"
    assert ours.manifest.results["packing"] == "rows are packed: on the cpu attention is computed row by row"
    start = dict(zoo.tiny_model().double().named_parameters())
    moved = 0
    for (name, want), got in zip(padded.model.named_parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        moved += not torch.equal(got, start[name])
    assert moved
    for before, after in zip(padded.history, ours.history, strict=True):
        for key, value in before.items():
            assert after[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key


@QUIET
def test_a_run_refuses_before_it_starts(tmp_path: Path) -> None:
    model = zoo.tiny_model("bloom", **UNPLACED["bloom"])
    with pytest.raises(ExpungeError, match="packing=on: BloomForCausalLM takes no position_ids"):
        unlearn("on", model, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_trial_leaves_the_model_as_it_was() -> None:
    model = zoo.tiny_model().train()
    state = torch.get_rng_state()
    assert module._fault(model, PackingChoice(True, "", by_rows=True), longest=30, autocast=False) is None
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state) and model.config._attn_implementation == "sdpa"
