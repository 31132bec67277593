"""Masked training: nothing outside changes a bit, nothing outside costs state, and inside it is the usual update."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import expunge
import zoo
from expunge.core.catalogue import names
from expunge.core.checks import ExpungeError
from expunge.masks.mask import Mask
from expunge.masks.mask_fingerprint import Fingerprint, fingerprint
from expunge.masks.storage import pack
from expunge.masks.units import Layout, Part
from expunge.models.fingerprint import model_fingerprint
from expunge.models.patch import Patch
from expunge.training.loss import compute_loss
from expunge.training.masked import HOLDER, mask_fingerprint, masked, reached_parameters, selections
from expunge.training.rows import RunRows
from expunge.training.trainer import ObjectiveTrainer
from made_masks import made_mask

SETTINGS: dict[str, Any] = {"method": "npo", "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.1}
UNITS = ("weight", "value_vector", "neuron", "matrix")


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def unlearn(model: Any, mask: Any, **changes: Any) -> expunge.Run:
    return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), mask=mask, **(SETTINGS | changes))


def check_outside(model: nn.Module, before: dict[str, torch.Tensor], mask: Mask) -> None:
    """Bits outside the mask are those of before; inside, something moved in every parameter with selected weights."""
    for name, p in model.named_parameters():
        inside = mask.dense(name) if name in mask.layout.parts else torch.zeros_like(p, dtype=torch.bool)
        changed = p.detach() != before[name]
        assert not changed[~inside].any(), name
        assert not inside.any() or changed[inside].float().mean() > 0.5, name


def test_the_check_of_bits_outside_can_fail() -> None:
    model = zoo.tiny_model()
    mask, before = made_mask(model, "value_vector"), weights(model)
    with torch.no_grad():
        for name in mask.layout.parts:
            model.get_parameter(name).mul_(2)
    with pytest.raises(AssertionError):
        check_outside(model, before, mask)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "how", [{}, {"micro_batch_size": 2}, {"precision": "bfloat16", "gradient_checkpointing": True}]
)
def test_weights_outside_stay_bit_for_bit(unit: str, how: dict[str, Any]) -> None:
    model = zoo.tiny_model()
    mask, before = made_mask(model, unit, "proj" if unit == "matrix" else "."), weights(model)  # type: ignore[arg-type]
    if unit == "matrix":
        mask = Mask(mask.layout, {g: pack(torch.tensor([i % 2 == 0])) for i, g in enumerate(mask.bits)})
    unlearn(model, mask, **how)
    check_outside(model, before, mask)
    assert not hasattr(model, HOLDER) and all(p.requires_grad for p in model.parameters())
    assert not any("forward" in vars(m) or "weight" in vars(m) for m in model.modules())


@pytest.mark.parametrize(
    ("architecture", "unit"),
    [*((name, "neuron") for name in zoo.ARCHITECTURES), ("gpt2", "weight"), ("gemma2", "weight")],
)
def test_every_architecture(architecture: str, unit: str) -> None:
    model = zoo.tiny_model(architecture)
    mask, before = made_mask(model, unit), weights(model)  # type: ignore[arg-type]
    unlearn(model, mask, epochs=1, batch_size=6, method="grad_diff", warmup=0)
    check_outside(model, before, mask)


OWN = {"pdu": {"eps": 3.0}, "altpo": {"alternates": 1}}
"""Settings that methods cannot do without."""


@pytest.mark.parametrize("method", [name for name in names("methods") if name != "rt_diff"])  # a run has no other model
def test_each_method_works_with_a_mask(method: str) -> None:
    model = zoo.tiny_model()
    mask, before = made_mask(model, "value_vector"), weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of methods that read one layer only
        unlearn(model, mask, method=method, epochs=1, batch_size=6, warmup=0, **OWN.get(method, {}))
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed and set(changed) <= set(mask.layout.parts)
    for name in changed:
        assert torch.equal(model.get_parameter(name)[~mask.dense(name)], before[name][~mask.dense(name)])


@pytest.mark.parametrize(
    ("unit", "precision"), [("weight", "float32"), ("value_vector", "bfloat16"), ("matrix", "float32")]
)
def test_a_mask_of_everything_is_the_run_without_a_mask(unit: str, precision: str) -> None:
    """Bit for bit: a parameter selected as a whole is its own compact tensor and takes the usual way."""
    masked_model, plain = zoo.tiny_model(), zoo.tiny_model()
    layout = made_mask(plain, "matrix" if unit == "value_vector" else unit).layout  # type: ignore[arg-type]
    if unit == "value_vector":
        parts = {n: Part(p.shape, "slices", n, len(p.shape) - 1) for n, p in layout.parts.items()}
        layout = Layout(unit, parts)  # type: ignore[arg-type]
    everything = Mask(layout, {g: pack(torch.ones(n, dtype=torch.bool)) for g, n in layout.groups.items()})
    a = unlearn(masked_model, everything, precision=precision)
    b = unlearn(plain, None, precision=precision)
    assert a.history == b.history
    for (name, p), q in zip(masked_model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(("architecture", "unit"), [("llama", "neuron"), ("gpt2", "neuron"), ("llama", "weight")])
def test_the_update_inside_is_that_of_adamw_on_the_masked_gradient(
    architecture: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second implementation in float64: dense gradients, masked, clipped, AdamW by its formulas, two steps."""
    seen: list[Any] = []
    collate = RunRows.collate
    monkeypatch.setattr(RunRows, "collate", lambda self, items: seen.append(collate(self, items)) or seen[-1])
    model = zoo.tiny_model(architecture).double()
    mask = made_mask(model, unit)  # type: ignore[arg-type]
    how = {
        "method": "grad_diff",
        "batch_size": 3,
        "epochs": 1,
        "warmup": 0,
        "schedule": "constant",
        "max_grad_norm": 0.5,
    }
    run = unlearn(model, mask, **how)
    assert len(run.history) == 2

    plain = zoo.tiny_model(architecture).double()
    parameters = dict(plain.named_parameters())
    inside = {n: mask.dense(n) for n in mask.layout.parts}
    moments = {n: (torch.zeros_like(parameters[n]), torch.zeros_like(parameters[n])) for n in inside}
    decayed = set(ObjectiveTrainer.get_decay_parameter_names(None, plain))  # type: ignore[arg-type]
    for t, batch in enumerate(seen[:2], start=1):
        plain.zero_grad()
        compute_loss(plain, forget=batch["forget"], retain=batch["retain"], method="grad_diff").backward()
        gradients = {n: torch.where(inside[n], parameters[n].grad, 0) for n in inside}
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert run.history[t - 1]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        for name, gradient in gradients.items():
            g, (m, v), p = gradient * min(1, 0.5 / norm), moments[name], parameters[name]
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g**2)
            decay = 0.1 if name in decayed else 0.0
            step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            with torch.no_grad():
                p.copy_(torch.where(inside[name], p * (1 - 1e-2 * decay) - 1e-2 * step, p))
    for name, p in model.named_parameters():  # the norms of these models compute in float32 even in float64 models
        torch.testing.assert_close(p, parameters[name], rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_tied_weights_change_as_one() -> None:
    model = zoo.tiny_model(tie_word_embeddings=True)
    mask, before = made_mask(model, "weight", "embed_tokens|down_proj"), weights(model)
    unlearn(model, mask)
    check_outside(model, before, mask)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    both = {
        n: Part(tuple(before["model.embed_tokens.weight"].shape), "weights", n)
        for n in ("model.embed_tokens.weight", "lm_head.weight")
    }
    bits = {n: pack(torch.arange(part.units) < k) for (n, part), k in zip(both.items(), (5, 6), strict=True)}
    with pytest.raises(ExpungeError, match=r"'model.embed_tokens.weight' and 'lm_head.weight' are one tied parameter"):
        selections(model, Mask(Layout("weight", both), bits))


def optimizer_of(model: Any, mask: Mask | None, monkeypatch: pytest.MonkeyPatch) -> torch.optim.Optimizer:
    made: list[torch.optim.Optimizer] = []
    create = ObjectiveTrainer.create_optimizer
    monkeypatch.setattr(ObjectiveTrainer, "create_optimizer", lambda *a: made.append(create(*a)) or made[-1])
    unlearn(model, mask)
    return made[0]


@pytest.mark.parametrize(("unit", "share"), [("weight", 0.1), ("value_vector", 0.25), ("neuron", 0.5)])
def test_optimizer_state_is_proportional_to_the_share(unit: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny_model()
    mask = made_mask(model, unit, "mlp", share=share)  # type: ignore[arg-type]
    selected = sum(int(mask.dense(name).sum()) for name in mask.layout.parts)
    optimizer = optimizer_of(model, mask, monkeypatch)
    held = [v.numel() for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    assert sum(held) == 2 * selected < 2 * share * 1.3 * sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == selected


def test_parameters_without_a_selected_weight_need_no_gradient() -> None:
    model = zoo.tiny_model()
    mask = made_mask(model, "value_vector")
    with masked(model, mask) as selected:
        own = {name for name, p in model.named_parameters() if p.requires_grad}
        assert own == {f"{HOLDER}.compact_{i}" for i in range(3)}
        assert selected.count == sum(int(mask.dense(n).sum()) for n in mask.layout.parts)
        assert not any(HOLDER in key for key in model.state_dict())
    assert all(p.requires_grad for p in model.parameters())


def test_only_the_slice_is_kept_for_the_backward_pass() -> None:
    """Of the input of a down-projection, [tokens, 48], the selected channels alone are saved."""
    model = zoo.tiny_model().train()
    mask, kept = made_mask(model, "value_vector"), []
    with masked(model, mask):
        down = model.model.layers[1].mlp.down_proj
        x = torch.randn(7, 48, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
            down(x)
    chosen = len(mask.indices("model.layers.1.mlp.down_proj.weight"))
    assert 0 < chosen < 48 and sorted(kept) == sorted([(7, chosen), (32, 48), (chosen,)])


@pytest.mark.parametrize(("flag", "why"), [("is_deepspeed_enabled", "flat parti"), ("is_fsdp_enabled", "shards it")])
def test_engines_that_a_mask_cannot_follow_are_refused(flag: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = ObjectiveTrainer.__init__

    def made(self: ObjectiveTrainer, **arguments: Any) -> None:
        make(self, **arguments)
        setattr(self, flag, True)

    monkeypatch.setattr(ObjectiveTrainer, "__init__", made)
    model = zoo.tiny_model()
    with pytest.raises(ExpungeError, match=why):
        unlearn(model, made_mask(model, "value_vector"))


class TestHalfPrecision:
    def test_master_copies_hold_what_16_bits_cannot(self) -> None:
        """Steps of 1e-4 vanish when they are rounded to bfloat16 each time; in the master copy they add up."""
        model = zoo.tiny_model().bfloat16()
        mask, before = made_mask(model, "value_vector"), weights(model)
        with masked(model, mask) as selected:
            optimizer = selected.optimizer(torch.optim.AdamW, {"lr": 1e-4}, decay=0.0, decayed=set())
            for _ in range(50):
                for compact in selected.compact:
                    compact.grad = torch.ones_like(compact)
                optimizer.step()
            assert {c.dtype for c in selected.compact} == {torch.float32}
        for name in mask.layout.parts:
            inside, p = mask.dense(name), model.get_parameter(name).detach()
            assert torch.equal(p[~inside], before[name][~inside])
            # AdamW moves by the rate where all gradients are 1: 50 x 1e-4 = 0.005 from the start, rounded once.
            assert torch.equal(p[inside], (before[name][inside].float() - 0.005).bfloat16())

    def test_a_stopped_run_resumes_to_the_same_bits(self, tmp_path: Path) -> None:
        resumed_equals_whole(tmp_path, lambda: zoo.tiny_model().bfloat16(), "neuron")


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def killed_after(step: int) -> Callable[..., None]:
    def progress(what: str, done: int, total: int, text: str) -> None:
        if what == "npo" and done == step:
            raise Killed

    return progress


def resumed_equals_whole(folder: Path, make: Callable[[], Any], unit: str) -> None:
    mask, before = made_mask(make(), unit), weights(make())  # type: ignore[arg-type]
    whole = unlearn(make(), mask, output_dir=folder / "whole")
    with pytest.raises(Killed):
        unlearn(make(), mask, output_dir=folder / "killed", progress=killed_after(2))
    resumed = unlearn(make(), mask, output_dir=folder / "killed", resume=True)
    a, b = load_file(folder / "whole/model.safetensors"), load_file(folder / "killed/model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert resumed.history == whole.history
    assert not any(HOLDER in name for name in a)
    check_outside(resumed.model, before, mask)


@pytest.mark.parametrize("unit", ["weight", "value_vector"])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, unit: str) -> None:
    resumed_equals_whole(tmp_path, zoo.tiny_model, unit)


def test_the_manifest_names_the_mask_and_another_one_is_refused(tmp_path: Path) -> None:
    model = zoo.tiny_model()
    mask, other = made_mask(model, "value_vector"), made_mask(model, "value_vector", seed=1)
    path = mask.save(tmp_path / "mask.safetensors")
    with pytest.raises(Killed):
        unlearn(model, path, output_dir=tmp_path / "run", progress=killed_after(2))
    manifest = expunge.Manifest.load(tmp_path / "run")
    assert manifest.inputs["mask"] == mask_fingerprint(mask) != mask_fingerprint(other)
    told = manifest.results["mask"]
    selected = sum(int(mask.dense(n).sum()) for n in mask.layout.parts)
    assert told["unit"] == "value_vector" and told["weights"] == selected == 32 * told["units"]
    assert told["share"] == selected / sum(p.numel() for p in model.parameters())
    assert Fingerprint.from_json(told["fingerprint"]) == fingerprint(mask)
    for wrong in (other, None):
        with pytest.raises(ExpungeError, match=r"cannot resume .* its inputs were others: mask: 'xxh3:"):
            unlearn(zoo.tiny_model(), wrong, output_dir=tmp_path / "run", resume=True)
    unlearn(zoo.tiny_model(), mask, output_dir=tmp_path / "run", resume=True)  # from memory as well as from its file


def test_masks_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = zoo.tiny_model()
    wide = made_mask(zoo.tiny_model(intermediate_size=64), "value_vector")
    with pytest.raises(ExpungeError, match=r"model.layers.0.mlp.down_proj.weight is \[32, 64\] in the mask"):
        unlearn(model, wide, output_dir=tmp_path / "run")
    with pytest.raises(ExpungeError, match=r"transformer.h.0.mlp.c_proj.weight"):
        unlearn(model, made_mask(zoo.tiny_model("gpt2"), "value_vector"), output_dir=tmp_path / "run")
    mask = made_mask(model, "value_vector")
    nothing = Mask(mask.layout, {g: torch.zeros_like(b) for g, b in mask.bits.items()})
    with pytest.raises(ExpungeError, match="the mask selects nothing"):
        unlearn(model, nothing, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model.model.layers[2].mlp.down_proj.weight.requires_grad_(False)
    with pytest.raises(ExpungeError, match=r"1 parameters that are frozen, model.layers.2.mlp.down_proj.weight first"):
        unlearn(model, mask)


def test_rmu_trains_the_part_of_the_region_that_it_reaches() -> None:
    """RMU reads the output of block 1 of three: the region's value vectors in block 2 have no gradient."""
    model = zoo.tiny_model()
    mask, before = made_mask(model, "value_vector"), weights(model)
    shares = [len(mask.indices(name)) for name in mask.layout.parts]
    with pytest.warns(
        UserWarning, match=f"{shares[2] / sum(shares):.1%} of the weights that the mask selects are above"
    ):
        unlearn(model, mask, method="rmu", layer=1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    with pytest.raises(ExpungeError, match="reaches none of the weights"):
        unlearn(model, made_mask(model, "weight", r"layers\.2|lm_head|model.norm"), method="rmu", layer=1)
    moved_by_nll = weights(model)
    unlearn(model, mask, method="rmu", layer=1, retain="nll", alpha=1.0)  # a retain loss at the end reaches everything
    assert not torch.equal(
        model.model.layers[2].mlp.down_proj.weight, moved_by_nll["model.layers.2.mlp.down_proj.weight"]
    )


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_what_a_loss_on_hidden_states_reaches_is_what_gets_a_gradient(architecture: str) -> None:
    from expunge.objectives.combine import build

    model = zoo.tiny_model(architecture)
    corpus = zoo.corpus()
    seen: list[Any] = []
    original = RunRows.collate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRows, "collate", lambda self, items: seen.append(original(self, items)) or seen[-1])
        expunge.unlearn(model, zoo.tokenizer(), corpus, method="grad_diff", epochs=1, batch_size=6)
    model.zero_grad()
    compute_loss(
        model,
        forget=seen[0]["forget"],
        retain=seen[0]["retain"],
        method="rmu",
        layer=1,
        reference=zoo.tiny_model(architecture),
    ).backward()
    reached = reached_parameters(model, build("rmu", hyperparameters={"layer": 1}, depth=3))
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        n for n, p in model.named_parameters() if id(p) in (reached or ())
    }


def test_gradient_surgery_looks_at_the_selected_entries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cosine is that of the two losses' gradients inside the mask, by a second way in float64."""
    seen: list[Any] = []
    collate = RunRows.collate
    monkeypatch.setattr(RunRows, "collate", lambda self, items: seen.append(collate(self, items)) or seen[-1])
    model, plain = zoo.tiny_model().double(), zoo.tiny_model().double()
    mask, before = made_mask(model, "neuron"), weights(model)
    run = unlearn(model, mask, method="grad_diff", surgery="gru", epochs=1, batch_size=6)
    check_outside(model, before, mask)
    sides = []
    for gamma, alpha in ((1.0, 0.0), (0.0, 1.0)):
        plain.zero_grad()
        compute_loss(
            plain, forget=seen[0]["forget"], retain=seen[0]["retain"], method="grad_diff", gamma=gamma, alpha=alpha
        ).backward()
        inside = [plain.get_parameter(name).grad[mask.dense(name)] for name in mask.layout.parts]
        sides.append(torch.cat(inside))
    cosine = torch.nn.functional.cosine_similarity(*sides, dim=0).item()
    assert run.history[0]["gradient_cosine"] == pytest.approx(cosine, rel=1e-4)


def test_finetuning_teaches_into_a_region() -> None:
    model = zoo.tiny_model()
    mask, before = made_mask(model, "value_vector", share=0.5), weights(model)
    run = expunge.finetune(
        model, zoo.tokenizer(), zoo.corpus(), splits=("forget",), mask=mask, epochs=20, batch_size=6, learning_rate=2e-2
    )
    check_outside(model, before, mask)
    assert run.history[-1]["retain_loss"] < 0.5 * run.history[0]["retain_loss"]
    assert run.manifest.inputs["mask"] == mask_fingerprint(mask)
    assert unlearn(model, mask, method="learn", retain="none").manifest.inputs["mask"] == mask_fingerprint(mask)


@pytest.mark.parametrize(("unit", "dtype"), [("value_vector", torch.float32), ("weight", torch.bfloat16)])
def test_a_masked_run_leaves_a_patch_on_request(tmp_path: Path, unit: str, dtype: torch.dtype) -> None:
    model = zoo.tiny_model().to(dtype)
    mask, start = made_mask(model, unit, "mlp"), model_fingerprint(model)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        unlearn(model, mask, output_dir=tmp_path / "run", patch=True, progress=killed_after(2))
    run = unlearn(zoo.tiny_model().to(dtype), mask, output_dir=tmp_path / "run", patch=True, resume=True)
    patch = Patch.load(tmp_path / "run/patch.safetensors")
    assert (patch.base, patch.result) == (start, model_fingerprint(run.model))
    selected = sum(int(mask.dense(n).sum()) for n in mask.layout.parts)
    assert 0.5 * selected < patch.weights <= selected and set(patch.changes) <= set(mask.layout.parts)
    patch.revert(run.model)
    assert model_fingerprint(run.model) == start
    assert unlearn(zoo.tiny_model().to(dtype), mask, output_dir=tmp_path / "run", patch=True, resume=True).history
    (tmp_path / "run/patch.safetensors").unlink()
    with pytest.raises(ExpungeError, match=r"is finished and left no patch\. Make one of the two models"):
        unlearn(zoo.tiny_model().to(dtype), mask, output_dir=tmp_path / "run", patch=True, resume=True)
    for wrong in ({"mask": None, "output_dir": tmp_path / "new"}, {"mask": mask}):
        with pytest.raises(ExpungeError, match="a patch holds what a masked run changed"):
            unlearn(zoo.tiny_model(), patch=True, **wrong)
