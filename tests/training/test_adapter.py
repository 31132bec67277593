"""Runs with adapters: any objective on any architecture, files, references without a second model, resuming."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

import expunge
import zoo
from expunge.adapters._importance import Importance
from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.masks.mask import Mask
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, refuse_adapters, save_model
from expunge.models.lowrank import lora_layers, without_known_warnings
from expunge.models.matrices import linear_layers, shape_of
from expunge.objectives.combine import build
from expunge.training.adapter import adapted_matrices, split_adapter_settings
from expunge.training.finetune import finetune
from expunge.training.trainer import ObjectiveTrainer
from expunge.training.training_config import TrainingConfig

ADAPTERS = catalogue.names("adapters")
SETTINGS: dict[str, dict[str, Any]] = {"lora": {}, "fila": {"epsilon": "auto"}, "vila": {"epsilon": "auto"}}


def unlearn(adapter: str | None = "lora", *, model: nn.Module | None = None, **changes: Any) -> expunge.Run:
    settings = {"method": "npo", "epochs": 2, "batch_size": 3, "learning_rate": 1e-2, "rank": 4}
    own = SETTINGS[adapter] if adapter else {}
    given = settings | own | changes
    if adapter is None:
        given.pop("rank")
    return expunge.unlearn(
        zoo.tiny_model() if model is None else model, zoo.tokenizer(), zoo.corpus(), adapter=adapter, **given
    )


def test_the_adapters_are_found() -> None:
    assert ADAPTERS == ["fila", "lora", "vila"]


def test_settings_of_adapters_share_no_name_with_others() -> None:
    taken = {*TrainingConfig.__dataclass_fields__, "gamma", "alpha", "method", "retain", "reference", "save", "targets"}
    for kind in ("methods", "retain_losses"):
        for name in catalogue.names(kind):
            taken |= {*catalogue.hyperparameters(catalogue.resolve(kind, name))}
    for name in ADAPTERS:
        assert not {*catalogue.hyperparameters(catalogue.resolve("adapters", name))} & taken, name


@contextmanager
def every_gradient_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """Largest gradient that each trained parameter received, over the steps of a run."""
    largest: dict[str, float] = {}
    clip = ObjectiveTrainer._clip_grad_norm

    def note(self: ObjectiveTrainer, model: nn.Module) -> Any:
        for name, p in model.named_parameters():
            if p.requires_grad:
                value = 0.0 if p.grad is None else float(p.grad.abs().max())
                largest[name] = max(largest.get(name, 0.0), value)
        return clip(self, model)

    monkeypatch.setattr(ObjectiveTrainer, "_clip_grad_norm", note)
    yield largest


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_factor_gets_gradient_under_gradient_checkpointing(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for checkpointing in (False, True):
        with every_gradient_seen(monkeypatch) as largest:
            run = unlearn(adapter, gradient_checkpointing=checkpointing, epochs=3)
        assert len(largest) == 42 and all(value > 0 for value in largest.values()), largest
        ends.append(dict(run.model.named_parameters()))
        assert not run.model.is_activation_checkpointing
    for name, p in ends[0].items():
        assert_close(ends[1][name], p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", [name for name in zoo.ARCHITECTURES if name != "llama"])
def test_so_it_does_on_every_architecture(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with every_gradient_seen(monkeypatch) as largest:
        # In the first step A has none, as B is zero.
        unlearn("lora", model=zoo.tiny_model(architecture), gradient_checkpointing=True, epochs=2, warmup=0)
    factors = 2 * len(linear_layers(zoo.tiny_model(architecture)))
    assert len(largest) == factors and all(value > 0 for value in largest.values()), largest


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("method", ["npo", "undial"])
def test_reference_values_come_without_a_second_model(
    adapter: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    if method == "npo":
        ends.append(unlearn(adapter, method=method, reference="precomputed"))

    def refuse(model: nn.Module) -> nn.Module:
        raise AssertionError("a second model")

    monkeypatch.setattr("expunge.training.unlearn.frozen_copy", refuse)
    ends.append(unlearn(adapter, method=method, reference="model"))
    ends.append(unlearn(adapter, method=method, reference="auto"))
    for other in ends[1:]:
        for name, p in ends[0].model.named_parameters():
            assert_close(dict(other.model.named_parameters())[name], p, rtol=1e-4, atol=1e-5)


def test_an_adapter_in_bfloat16_weights_and_compute() -> None:
    run = unlearn("fila", model=zoo.tiny_model().bfloat16(), precision="bfloat16")
    assert run.history[0]["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-2)
    assert all(p.dtype == torch.bfloat16 for p in run.model.parameters())


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("save", ["merged", "adapter", "both"])
def test_a_run_folder_loads_as_the_model_that_the_run_returned(tmp_path: Path, adapter: str, save: str) -> None:
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")
    start = load_model(tmp_path / "start")
    base = model_fingerprint(start)
    run = unlearn(adapter, model=start, output_dir=tmp_path / "run", save=save)
    assert isinstance(run.model, type(zoo.tiny_model()))
    loaded = load_model(tmp_path / "run")
    for name, p in run.model.named_parameters():
        assert_close(dict(loaded.named_parameters())[name], p, rtol=1e-5, atol=1e-6)
    if save != "adapter":
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
        assert all(torch.equal(dict(plain.named_parameters())[n], p) for n, p in run.model.named_parameters())
    if save != "merged":
        folder = tmp_path / "run" if save == "adapter" else tmp_path / "run/adapter"
        on_base = expunge.load_adapter(load_model(tmp_path / "start"), folder)
        ids = torch.tensor([[1, 17, 40, 3]])
        assert_close(on_base(input_ids=ids).logits, run.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
        with pytest.raises(ExpungeError, match="was trained on another model"):
            expunge.load_adapter(zoo.tiny_model(seed=1), folder)
    assert (tmp_path / "run/model.safetensors").exists() == (save != "adapter")
    manifest = Manifest.load(tmp_path / "run")
    assert manifest.arguments["adapter"] == adapter and manifest.arguments["adapter_settings"]["rank"] == 4
    assert manifest.inputs["model"] == base and manifest.results["trained_parameters"] == 5568
    again = unlearn(adapter, model=load_model(tmp_path / "start"), output_dir=tmp_path / "run", save=save, resume=True)
    assert len(again.history) == 4


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, adapter: str) -> None:
    whole = unlearn(adapter, output_dir=tmp_path / "whole")

    def progress(what: str, done: int, total: int, text: str) -> None:
        if what == "npo" and done == 3:
            raise Killed

    model = zoo.tiny_model()
    before = model_fingerprint(model)
    with pytest.raises(Killed):
        unlearn(adapter, model=model, output_dir=tmp_path / "killed", progress=progress)
    assert model_fingerprint(model) == before and all(p.requires_grad for p in model.parameters())
    (checkpoint,) = (tmp_path / "killed/checkpoints").glob("checkpoint-*")
    assert (checkpoint / "adapter_model.safetensors").is_file() and not (checkpoint / "model.safetensors").exists()
    resumed = unlearn(adapter, output_dir=tmp_path / "killed", resume=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(a[name], b[name]) for name in a) and resumed.history == whole.history


def test_a_peft_model_has_its_own_adapter_trained(tmp_path: Path) -> None:
    with without_known_warnings():
        model = get_peft_model(zoo.tiny_model(), LoraConfig(target_modules=["q_proj", "down_proj"], r=3))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = unlearn(None, model=model, method="undial", output_dir=tmp_path / "run")
    assert run.model is model
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "lora_" in name} and len(changed) == 12
    # The start model is the one with its adapter, so NPO begins at (2 / beta) ln 2 here too.
    for reference in ("precomputed", "model"):
        run = unlearn(None, model=model, reference=reference)
        assert run.history[0]["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-5)
    loaded = expunge.load_adapter(zoo.tiny_model(), tmp_path / "run")
    assert isinstance(loaded, PeftModel)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "lorra"}, "no adapter is called 'lorra'. Did you mean 'lora'"),
        ({"adapter": None, "targets": "mlp"}, "targets=mlp needs an adapter: adapter=lora"),
        ({"adapter": None, "save": "both"}, "save=both is a setting of adapters"),
        ({"adapter": None, "rank": 8}, "rank"),
        ({"adapter": "fila", "dropout": 0.1}, "dropout"),
        ({"rank": 64}, "rank=64 is more than"),
        ({"rank": 0}, "rank must be at least 1; got 0"),
        ({"lora_alpha": -1.0}, "lora_alpha must be above 0; got -1.0"),
        ({"dropout": 2.0}, "dropout must be between 0 and 0.99; got 2.0"),
        ({"adapter": "fila", "epsilon": -1.0}, "epsilon must be above 0; got -1.0"),
        ({"adapter": "fila", "rank": 64}, "rank=64 is more than"),
        ({"adapter": "vila", "sigma": 0.0}, "sigma must be above 0; got 0.0"),
        ({"adapter": "fila", "retain_samples": 10**6}, "retain_samples must be between 1 and 10, .*; got 1000000"),
        ({"adapter": "vila", "svd": "rand"}, "svd must be exact or randomized; got 'rand'"),
        ({"adapter": "vila", "fisher": "all"}, "fisher must be example or batch; got 'all'"),
        ({"adapter": "fila", "fisher_batch_size": 0}, "fisher_batch_size must be at least 1; got 0"),
        ({"targets": "query"}, "finds none of the 21 linear layers"),
        ({"method": "rmu", "layer": 0, "targets": "mlp"}, "are above layer 0.*would never learn"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written_or_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, message: str
) -> None:
    model = zoo.tiny_model()
    monkeypatch.setattr(type(model), "forward", None)
    given = {"adapter": "lora", "method": "npo", "epochs": 1, "batch_size": 3, "output_dir": tmp_path / "run"}
    with pytest.raises(ExpungeError, match=message):
        expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), **given | settings)
    assert not (tmp_path / "run").exists()


def test_adapters_on_adapters_and_missing_retain_sets_are_refused() -> None:
    with without_known_warnings():
        model = get_peft_model(zoo.tiny_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ExpungeError, match="carries a PEFT adapter already, and adapter=fila would be a second one"):
        unlearn("fila", model=model)
    corpus = expunge.Corpus({"forget": zoo.corpus()["forget"]}, "alone")
    with pytest.raises(ExpungeError, match="adapter=fila weighs the forget set against a retain set"):
        expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), corpus, method="grad_ascent", adapter="fila")


@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_experts_that_no_adapter_goes_on_are_told(targets: str | None) -> None:
    model, objective = zoo.tiny_model("mixtral", num_local_experts=4), build("npo", depth=3)
    told = r"85\.8% of the weights in the decoder blocks are outside linear layers \(model\.layers\.0\.mlp\.experts"
    with pytest.warns(UserWarning, match=told) as warned:
        names = adapted_matrices(model, objective, targets)
    assert len(names) == 12 and len(warned) == 1  # four matrices of attention in each of three blocks
    assert len(adapted_matrices(model, objective, "q_proj")) == 3  # asked for by name: no word


def test_an_adapter_looks_at_forget_rows_as_such_and_at_as_many_at_once_as_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: dict[str, Any] = {}

    def row_importance(model: nn.Module, matrices: Any, forget: Any, retain: Any, **settings: Any) -> Importance:
        looked.update(settings, forget=forget, retain=retain)
        rows = {name: torch.ones(shape_of(linear_layers(model)[name])[0]) for name in matrices}
        return Importance(rows, {"share_above_epsilon": 1.0, "retain_median": 1.0})

    monkeypatch.setattr("expunge.adapters.fila.row_importance", row_importance)
    unlearn("fila", epochs=1, micro_batch_size=1, retain_samples=10, importance=str(tmp_path / "i.safetensors"))
    for split in ("forget", "retain"):
        expected = encode(zoo.corpus()[split], zoo.tokenizer(), template=Template(), max_length=512)
        assert [row.ids for row in looked[split]] == [row.ids for row in expected]
    assert looked["rows_at_once"] == 1


def test_a_failed_run_takes_the_adapter_off_a_quantized_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def progress(what: str, *_: Any) -> None:
        if what == "npo":
            raise Killed

    monkeypatch.setattr("expunge.training.adapter.is_quantized", lambda model: True)
    model = zoo.tiny_model()
    before = model_fingerprint(model)
    with pytest.raises(Killed):
        unlearn("lora", model=model, save="adapter", progress=progress)
    assert not lora_layers(model) and not getattr(model, "peft_config", None)
    assert model_fingerprint(model) == before and all(p.requires_grad for p in model.parameters())


def test_the_adapter_is_written_before_it_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(model: nn.Module) -> nn.Module:
        raise MemoryError

    monkeypatch.setattr("expunge.training.adapter.merged", out_of_memory)
    with pytest.raises(MemoryError):
        unlearn("lora", epochs=1, output_dir=tmp_path, save="both")
    expunge.load_adapter(zoo.tiny_model(), tmp_path / "adapter")


def mask_of(unit: str, chosen: set[str]) -> Mask:
    names = {f"{name}.weight": module for name, module in linear_layers(zoo.tiny_model()).items()}
    cut = "whole" if unit == "matrix" else "weights"
    parts = {n: Part(tuple(m.weight.shape), cut, n) for n, m in names.items()}
    bits = {n: pack(torch.full((part.units,), n in chosen)) for n, part in parts.items()}
    return Mask(Layout(unit, parts), bits)


def test_a_mask_of_matrices_says_which_are_adapted_and_others_are_refused() -> None:
    model, objective = zoo.tiny_model(), build("npo", depth=3)
    chosen = {"model.layers.0.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.weight"}
    names = adapted_matrices(model, objective, None, mask_of("matrix", chosen))
    assert {f"{name}.weight" for name in names} == chosen
    with pytest.raises(ExpungeError, match="mask of unit=weight does not go with an adapter: the product B A changes"):
        adapted_matrices(model, objective, None, mask_of("weight", chosen))
    with pytest.raises(ExpungeError, match="selects none of the 3 matrices"):
        adapted_matrices(model, objective, "down_proj", mask_of("matrix", chosen))


def test_a_run_through_a_mask_of_matrices_changes_exactly_these() -> None:
    chosen = {"model.layers.0.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.weight"}
    start = zoo.tiny_model().state_dict()
    run = unlearn("lora", mask=mask_of("matrix", chosen))
    assert run.manifest.results["adapted_matrices"] == 2
    assert run.manifest.results["trained_parameters"] == 4 * (32 + 48) + 4 * (32 + 32)  # rank 4, (in + out) of each
    after = run.model.state_dict()
    assert {name for name in start if not torch.equal(start[name], after[name])} == chosen


def test_a_mask_may_not_select_what_no_adapter_reaches() -> None:
    names = ("lm_head.weight", "model.layers.0.mlp.up_proj.weight")
    shapes = {n: tuple(p.shape) for n, p in zoo.tiny_model().named_parameters(remove_duplicate=False) if n in names}
    parts = {n: Part(shape, "whole", n) for n, shape in shapes.items()}
    mask = Mask(Layout("matrix", parts), {n: pack(torch.tensor([True])) for n in parts})
    with pytest.raises(ExpungeError, match=r"selects 1 parameters that the adapter is not attached to \(lm_head"):
        unlearn("lora", mask=mask)
    assert unlearn("lora", mask=mask, targets="mlp").manifest.results["adapted_matrices"] == 1


def test_fine_tuning_a_model_with_an_adapter_is_refused() -> None:
    with without_known_warnings():
        model = get_peft_model(zoo.tiny_model(), LoraConfig(target_modules=["q_proj"]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ExpungeError, match=r"carries PEFT adapters, and fine-tuning.*merge_and_unload"):
        finetune(model.base_model.model, zoo.tokenizer(), zoo.corpus())
    with pytest.raises(ExpungeError, match="carries PEFT adapters"):
        refuse_adapters(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_settings_go_to_the_adapter_first_and_the_rest_to_the_method() -> None:
    adaptation, rest = split_adapter_settings("fila", None, None, {"rank": 2, "beta": 0.3, "epsilon": "auto"})
    assert rest == {"beta": 0.3} and adaptation is not None and adaptation.save == "merged"
    assert adaptation.settings["rank"] == 2 and adaptation.settings["fisher"] == "example"


def test_an_unknown_name_lists_the_settings_of_the_adapter() -> None:
    with pytest.raises(ExpungeError, match=r"is called 'r'\. Did you mean 'rank'\? Known: beta, dropout, .*rank"):
        unlearn("lora", method="npo", r=8)
    with pytest.raises(ExpungeError, match=r"is called 'rank'\. rank is a setting of adapters: adapter=lora\."):
        expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), rank=8)


def test_a_stop_rule_ends_a_run_with_its_reason(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def rule(model: nn.Module, step: int) -> str | None:
        seen.append((step, model.training))
        return "far enough" if step == 4 else None

    run = unlearn("lora", epochs=6, stop=rule, output_dir=tmp_path)
    assert seen == [(2, False), (4, False)] and len(run.history) == 4  # two steps an epoch, asked at each epoch
    assert run.manifest.results["stopped"] == "far enough" and run.manifest.results["finished"]
    assert (tmp_path / "model.safetensors").is_file()
    again = unlearn("lora", epochs=6, stop=rule, output_dir=tmp_path, resume=True)
    assert again.manifest.results["stopped"] == "far enough" and len(seen) == 2  # finished, so nobody asks
    for others in ({}, {"stop": lambda model, step: None}, {"stop": rule, "stop_every": 3}):
        with pytest.raises(ExpungeError, match=r"cannot resume .*its arguments were others: .*stop"):
            unlearn("lora", epochs=6, **others, output_dir=tmp_path, resume=True)
    seen.clear()
    unlearn("lora", epochs=2, stop=rule, stop_every=0.5)
    assert [step for step, _ in seen] == [1, 2, 3, 4]
