"""Options that work together, or are refused before anything starts: in dry run and run in the same words."""

import importlib.util
import shutil
from typing import Any

import pytest
import torch

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.anatomy import blocks
from expunge.models.load import load_model, save_model
from expunge.training.options import check_options, options_on
from expunge.training.run import Run
from expunge.training.training_config import TrainingConfig
from expunge.training.unlearn import unlearn
from made_masks import made_mask

REFUSED: dict[str, tuple[dict[str, Any], str, bool, str]] = {
    # settings, place, masked, what is said
    "8-bit AdamW on a CPU": ({"optimizer": "adamw_8bit"}, "cpu", False, "needs a GPU"),
    "8-bit AdamW and a mask": ({"optimizer": "adamw_8bit"}, "cuda", True, "does not go with a mask"),
    "8-bit AdamW without its package": ({"optimizer": "adamw_8bit"}, "cuda", False, r"expunge\[bitsandbytes\]"),
    "flash attention on a CPU": ({"attention": "flash_attention_2"}, "cpu", False, "needs a GPU"),
    "flash attention without its package": ({"attention": "flash_attention_2"}, "cuda", False, "flash-attn"),
    "tf32 on a CPU": ({"tf32": True}, "cpu", False, "from Ampere on; this run is on cpu"),
    "compilation and a mask": ({"compile": True}, "cpu", True, "does not go with a mask"),
}


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither bitsandbytes nor flash-attn, whatever is installed here."""
    find = importlib.util.find_spec
    absent = ("bitsandbytes", "flash_attn")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else find(name, *a))


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(case: str) -> None:
    settings, place, masked, said = REFUSED[case]
    with pytest.raises(ExpungeError, match=said):
        check_options(zoo.tiny_model(), TrainingConfig(**settings), place, masked=masked)


def test_flash_attention_needs_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object())
    check_options(zoo.tiny_model(), TrainingConfig(attention="flash_attention_2"), "cuda", masked=False)
    check_options(zoo.tiny_model(), TrainingConfig(optimizer="adamw_8bit"), "cuda", masked=False)
    with pytest.raises(ExpungeError, match="16 bits only, and precision is float32"):
        check_options(
            zoo.tiny_model(), TrainingConfig(attention="flash_attention_2", precision="float32"), "cuda", masked=False
        )


def test_tf32_needs_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ExpungeError, match="from Ampere on"):
        check_options(zoo.tiny_model(), TrainingConfig(tf32=True), "cuda", masked=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    check_options(zoo.tiny_model(), TrainingConfig(tf32=True), "cuda", masked=False)


@pytest.mark.parametrize("place", ["mps", "xpu", "cuda"])
def test_tf32_is_refused_without_cuda(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ExpungeError, match=f"from Ampere on; this run is on {place}"):
        check_options(zoo.tiny_model(), TrainingConfig(tf32=True), place, masked=False)


ATTENTION = {  # what the classes of transformers can be switched to
    "llama": {"eager", "sdpa", "flash_attention_2"},
    "gemma2": {"eager", "flash_attention_2"},
    "gpt_neo": {"eager"},
}


@pytest.mark.parametrize("architecture", ATTENTION)
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_attention_that_a_model_lacks_is_refused(
    architecture: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = zoo.tiny_model(architecture), TrainingConfig(attention=attention)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object())
    if attention in ATTENTION[architecture]:
        check_options(model, config, "cuda", masked=False)
        return
    now = model.config._attn_implementation
    with pytest.raises(ExpungeError, match=rf"^attention='{attention}': {type(model).__name__} .* switched .* {now}\."):
        check_options(model, config, "cuda", masked=False)


def test_a_model_with_other_flash_kernels_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny_model()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object())
    model._compatible_flash_implementations = ["kernels-community/other"]
    with pytest.raises(ExpungeError, match=r"^attention='flash_attention_2': LlamaForCausalLM"):
        check_options(model, TrainingConfig(attention="flash_attention_2"), "cuda", masked=False)


@pytest.mark.parametrize(("architecture", "said"), [("gpt_neo", "with eager instead"), ("gemma2", "does not support")])
def test_attention_is_what_was_asked_for_or_an_error(architecture: str, said: str) -> None:
    model = zoo.tiny_model(architecture)
    with pytest.raises(ExpungeError, match=said), options_on(model, TrainingConfig(attention="sdpa")):
        pytest.fail("it was not set")
    assert model.config._attn_implementation == "eager"


def test_options_that_fail_leave_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny_model()
    compiled: list[object] = []

    def second_fails(call: object, **_: Any) -> object:
        if compiled:
            raise RuntimeError("no compiler")
        compiled.append(call)
        return call

    monkeypatch.setattr(torch, "compile", second_fails)
    config = TrainingConfig(attention="eager", compile=True)
    with pytest.raises(RuntimeError, match="no compiler"), options_on(model, config):
        pytest.fail("it was not compiled")
    assert model.config._attn_implementation == "sdpa" and len(compiled) == 1
    assert all(block._compiled_call_impl is None for block in blocks(model))


def test_compilation_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ExpungeError, match=r"needs a C\+\+ compiler"):
        check_options(zoo.tiny_model(), TrainingConfig(compile=True), "cpu", masked=False)


def run(model: Any = None, **settings: Any) -> Run:
    how = {"method": "grad_diff", "epochs": 1, "batch_size": 3, "learning_rate": 1e-3, "precision": "float32"}
    return unlearn(model or zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), **{**how, **settings})


RUNS: dict[str, dict[str, Any]] = {
    "checkpointing": {"gradient_checkpointing": True},
    "eager attention": {"attention": "eager"},
    "checkpointing and eager attention": {"gradient_checkpointing": True, "attention": "eager"},
    "micro-batches": {"micro_batch_size": 1},
    "checkpointing and micro-batches": {"gradient_checkpointing": True, "micro_batch_size": 1},
}
KINDS: dict[str, dict[str, Any]] = {"all weights": {}, "lora": {"adapter": "lora", "rank": 4}, "mask": {"mask": None}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", RUNS)
def test_what_only_changes_the_way_changes_no_result(case: str, kind: str) -> None:
    def weights(**settings: Any) -> dict[str, torch.Tensor]:
        model = zoo.tiny_model()
        more = {**KINDS[kind], **({"mask": made_mask(model)} if kind == "mask" else {})}
        return dict(run(model, **settings, **more).model.named_parameters())

    plain, other = weights(), weights(**RUNS[case])
    moved = [not torch.equal(p, plain[name]) for name, p in zoo.tiny_model().named_parameters()]
    assert any(moved)
    for name, expected in plain.items():
        torch.testing.assert_close(other[name], expected, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_16_bits_have_float32_masters_in_every_precision(stored: torch.dtype, precision: str) -> None:
    model = run(zoo.tiny_model().to(stored), precision=precision).model
    wide = run(zoo.tiny_model().to(stored).float(), precision=precision).model
    for (name, p), (_, expected) in zip(model.named_parameters(), wide.named_parameters(), strict=True):
        assert p.dtype == stored
        assert torch.equal(p, expected.to(stored)), name


def test_options_come_off_after_a_run() -> None:
    model = zoo.tiny_model()
    before = model.config._attn_implementation
    assert before != "eager"
    assert run(model, attention="eager").model.config._attn_implementation == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("kind", ["all weights", "lora"])
@pytest.mark.filterwarnings("ignore")  # of what is compiled
def test_compiled_blocks_give_the_same_weights(kind: str) -> None:
    plain = dict(run(**KINDS[kind]).model.named_parameters())
    model = zoo.tiny_model()
    compiled = dict(run(model, compile=True, **KINDS[kind]).model.named_parameters())
    assert all(block._compiled_call_impl is None for block in blocks(model))
    for name, expected in plain.items():
        torch.testing.assert_close(compiled[name], expected, atol=2e-5, rtol=1e-4, msg=name)


def test_a_run_refuses_what_its_place_cannot_do(tmp_path: Any) -> None:
    folder = save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "model")
    with pytest.raises(ExpungeError, match="needs a GPU") as caught:
        run(load_model(folder, device="cpu"), attention="flash_attention_2")
    assert "attention='flash_attention_2'" in str(caught.value)
