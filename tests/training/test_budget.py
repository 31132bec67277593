"""A limit of memory: which way of computing a run keeps it, and what is said once a run met one."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import zoo
from expunge.core.checks import ExpungeError
from expunge.models.lowrank import without_known_warnings
from expunge.training import finetune as finetune_module
from expunge.training import unlearn as module
from expunge.training.budget import explained, fitted, ran_out, sparing, told
from expunge.training.finetune import finetune
from expunge.training.memory import Conditions, run_peak
from expunge.training.plan import Plan, plan_unlearning, split_settings
from expunge.training.training_config import TrainingConfig, bytes_of
from expunge.training.unlearn import unlearn
from made_masks import made_mask


def plan(**settings: Any) -> Plan:
    return plan_unlearning(zoo.tiny_model(), *split_settings({"method": "grad_diff", "batch_size": 6, **settings}))


def ways(made: Plan) -> list[tuple[int, bool]]:
    return [(way.training.split()[0], way.training.gradient_checkpointing) for way in sparing(made)]


def test_sizes_by_hand() -> None:
    assert bytes_of("40GiB") == 40 * 2**30
    assert bytes_of("1.5 GB") == 1.5e9
    assert bytes_of("512mb") == 512e6
    for wrong in ("40", "GiB", "-1GB", "0GB", "1e3GB", "nan GB"):
        with pytest.raises(ExpungeError, match="memory must be a size such as 40GiB"):
            TrainingConfig(memory=wrong)


def test_smaller_micro_batches_come_before_checkpointing() -> None:
    assert ways(plan()) == [(n, on) for on in (False, True) for n in (6, 3, 2, 1)]
    # What was asked for stays.
    assert ways(plan(micro_batch_size=3)) == [(3, False), (3, True)]
    assert ways(plan(gradient_checkpointing=True)) == [(n, True) for n in (6, 3, 2, 1)]


def estimate(way: Plan) -> float:
    """Ten bytes a row, less four with checkpointing; and 100."""
    return 100 + way.training.split()[0] * (6 if way.training.gradient_checkpointing else 10)


@pytest.mark.parametrize(
    ("limit", "settings"),
    [
        ("0.16KB", "micro_batch_size=6, gradient_checkpointing=False"),
        ("0.159KB", "micro_batch_size=3, gradient_checkpointing=False"),
        ("0.11KB", "micro_batch_size=1, gradient_checkpointing=False"),
        ("0.109KB", "micro_batch_size=1, gradient_checkpointing=True"),
    ],
)
def test_the_fastest_way_that_fits_is_taken(limit: str, settings: str) -> None:
    assert told(fitted(plan(memory=limit), estimate)) == settings


def test_where_nothing_fits_the_least_is_said() -> None:
    with pytest.raises(ExpungeError, match=r"memory=0.1KB is less than this run takes.*0\.0 MB at least"):
        fitted(plan(memory="0.1KB"), estimate)


def test_without_a_limit_nothing_changes() -> None:
    made = plan()
    assert fitted(made, estimate) is made


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory_ends_with_what_takes_less(error: Exception) -> None:
    with pytest.raises(ExpungeError, match="out of memory") as caught, explained(plan(), plan(), estimate):
        raise error
    assert "micro_batch_size=3, gradient_checkpointing=False (0.0 MB); micro_batch_size=2" in str(caught.value)


def advice(asked: Plan, **how: Any) -> str:
    """What a run says that met the end of memory, from its settings on."""
    with pytest.raises(ExpungeError) as caught, explained(asked, fitted(asked, estimate), estimate, **how):
        raise MemoryError
    return str(caught.value).split(" with ", 1)[1]


def named(said: str) -> list[tuple[int, bool]]:
    """The settings that advice lists."""
    found = re.findall(r"micro_batch_size=(\d+), gradient_checkpointing=(\w+) \(", said)
    return [(int(micro), on == "True") for micro, on in found]


def test_the_fastest_ways_and_the_least_are_named() -> None:
    assert named(advice(plan())) == [(3, False), (2, False), (1, False), (1, True)]
    assert named(advice(plan(micro_batch_size=3))) == [(2, False), (1, False), (3, True), (1, True)]
    assert named(advice(plan(micro_batch_size=3, gradient_checkpointing=True))) == [(2, True), (1, True)]
    assert named(advice(plan(memory="0.125KB"))) == [(1, False), (2, True), (1, True)]  # 2 rows were chosen


def test_advice_follows_from_what_is_set() -> None:
    end = "to have these chosen for you."
    assert advice(plan()).endswith(f". Set memory=<limit> {end}")
    assert advice(plan(memory="0.125KB")).endswith(f". Set a lower limit than memory=0.125KB {end}")
    assert advice(plan(micro_batch_size=3)).endswith(f". Leave micro_batch_size open and set memory=<limit> {end}")
    bound = advice(plan(micro_batch_size=3, memory="0.13KB"))
    assert bound.endswith(f". Leave micro_batch_size open and set a lower limit than memory=0.13KB {end}")


def test_of_divided_weights_nothing_is_estimated() -> None:
    def asked(_way: Plan) -> float:
        raise AssertionError("estimated")

    with pytest.raises(ExpungeError) as caught, explained(plan(), plan(), asked, divided=True):
        raise MemoryError
    assert "a smaller micro_batch_size, gradient_checkpointing=True, or more processes." in str(caught.value)
    assert "memory=" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "less"),
    [
        ({}, "adapter=lora, a mask or a smaller max_length"),
        ({"adapter": "lora", "rank": 2}, "a smaller rank, fewer targets or a smaller max_length"),
        ({"method": "undo"}, "a mask or a smaller max_length"),
        ({"mask": made_mask(zoo.tiny_model())}, "a smaller mask or a smaller max_length"),
    ],
)
def test_what_trains_less_is_what_is_not_set_yet(settings: dict[str, Any], less: str) -> None:
    mask = settings.get("mask")
    given = {key: value for key, value in settings.items() if key != "mask"}
    given = {"method": "grad_diff", "batch_size": 1, "gradient_checkpointing": True, **given}
    made = plan_unlearning(zoo.tiny_model(), *split_settings(given), mask=mask)
    assert advice(made).endswith(f"gradient_checkpointing=True. Train less: {less}.")
    limited = replace(made, training=replace(made.training, memory="0.1KB"))
    with pytest.raises(ExpungeError, match=re.escape(f"Allow more, or train less: {less}.")):
        fitted(limited, estimate)


def test_only_what_was_tried_is_said_to_take_too_much() -> None:
    with pytest.raises(ExpungeError, match=r"than this run takes however it is computed: .* Allow more, or train"):
        fitted(plan(memory="0.1KB"), estimate)
    with pytest.raises(
        ExpungeError, match=r"run takes with micro_batch_size=3: .* Allow more, leave micro_batch_size open, or train"
    ):
        fitted(plan(memory="0.11KB", micro_batch_size=3), estimate)


def test_divided_weights_take_no_limit() -> None:
    with pytest.raises(ExpungeError, match=r"memory=1GB plans no run with sharded=True: .* Leave it out\."):
        fitted(plan(memory="1GB"), estimate, divided=True)
    free = plan()
    assert fitted(free, estimate, divided=True) is free


def test_other_errors_pass() -> None:
    assert not ran_out(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"), explained(plan(), plan(), estimate):
        raise RuntimeError("shapes differ")


def test_the_allocator_for_cpus_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(caught.value)


def run(**settings: Any) -> Any:
    corpus = zoo.corpus()
    return unlearn(zoo.tiny_model(), zoo.tokenizer(), corpus, method="grad_diff", epochs=1, batch_size=6, **settings)


def test_a_run_keeps_to_its_limit_and_ends_with_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates: list[Plan] = []

    def noted(model: Any, way: Plan, *_: Any) -> float:
        estimates.append(way)
        return estimate(way)

    monkeypatch.setattr(module, "run_peak", noted)
    free, bound = run(precision="float32"), run(precision="float32", memory="0.125KB")
    assert bound.manifest.arguments["micro_batch_size"] == 2
    assert free.manifest.arguments["micro_batch_size"] is None
    assert estimates
    for (name, a), (_, b) in zip(free.model.named_parameters(), bound.model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_less_at_once_takes_less() -> None:
    model = zoo.tiny_model()
    made = plan()
    rows = made.rows(zoo.corpus(), zoo.tokenizer(), model)
    amounts = [run_peak(model, way, rows, Conditions()) for way in sparing(made)]
    assert amounts[1:4] == sorted(amounts[1:4], reverse=True)
    assert amounts[4] < amounts[0]


def test_a_run_that_meets_the_end_of_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr("expunge.training.trainer.batch_terms", full)
    with pytest.raises(ExpungeError, match=r"out of memory, in a run .* It takes less with micro_batch_size=3"):
        run(precision="float32")


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "lora", "rank": 2},
        {"adapter": "fila", "rank": 2},
        {"adapter": "vila", "rank": 2, "epsilon": "auto"},
        {},  # a mask
    ],
)
def test_a_changed_model_that_meets_the_end_of_memory_says_so(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.training.trainer.batch_terms", full)
    how = settings or {"mask": made_mask(zoo.tiny_model())}
    with pytest.raises(ExpungeError, match=r"out of memory, in a run .* It takes less with .* Set memory=<limit>"):
        run(precision="float32", **how)


def test_an_adapter_of_the_models_own_is_not_sent_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def own() -> PeftModel:
        with without_known_warnings():
            return get_peft_model(zoo.tiny_model(), LoraConfig(target_modules=["q_proj"], r=2))

    how: dict[str, Any] = {"method": "grad_diff", "epochs": 1, "batch_size": 6, "precision": "float32"}
    with pytest.raises(ExpungeError, match="memory=1GB plans no run that trains an adapter which the model came with"):
        unlearn(own(), zoo.tokenizer(), zoo.corpus(), memory="1GB", **how)
    monkeypatch.setattr("expunge.training.trainer.batch_terms", full)
    with pytest.raises(ExpungeError, match="out of memory, in a run") as caught:
        unlearn(own(), zoo.tokenizer(), zoo.corpus(), **how)
    assert "It takes less with micro_batch_size=3" in str(caught.value)
    assert "memory=" not in str(caught.value)


def test_a_run_on_divided_weights_takes_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sharded", lambda _model: True)
    with pytest.raises(ExpungeError, match="memory=1GB plans no run with sharded=True"):
        run(memory="1GB")
    monkeypatch.setattr(finetune_module, "sharded", lambda _model: True)
    with pytest.raises(ExpungeError, match="memory=1GB plans no run with sharded=True"):
        finetune(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), memory="1GB")
