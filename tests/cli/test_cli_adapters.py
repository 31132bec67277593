"""`expunge unlearn adapter=...`: runs, what a dry run says, and a run that stops by what it measured."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from expunge.config.settings import parameters
from expunge.core import catalogue
from expunge.core.manifest import Manifest
from expunge.data.corpus import load_corpus
from expunge.localize.localize import localize
from expunge.localize.model_units import layout
from expunge.masks.mask import Mask
from expunge.masks.storage import pack
from expunge.models.load import load_model
from expunge.training.memory import importance_memory


@pytest.fixture
def words(model_folder: Path, data: Path, tmp_path: Path) -> tuple[str, ...]:
    return (
        "unlearn",
        f"model={model_folder}",
        f"forget={data}/forget.jsonl",
        f"retain={data}/retain.jsonl",
        f"output={tmp_path}/run",
        "epochs=1",
        "batch_size=3",
    )


def test_adapters_are_listed(call: Callable[..., Any]) -> None:
    code, out, _ = call("list", "adapters")
    assert code == 0 and all(name in out for name in ("lora", "fila", "vila")) and "starts at zero" in out


def test_a_run_through_an_adapter_is_an_ordinary_model(
    call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    code, out, err = call(*words, "adapter=fila", "rank=2", "epsilon=auto", "method=ihl", "save=both", "targets=mlp")
    assert code == 0, err
    assert "unlearned with ihl through fila: 2 steps" in out
    manifest = Manifest.load(tmp_path / "run")
    assert manifest.arguments["adapter_settings"]["rank"] == 2 and manifest.arguments["targets"] == "mlp"
    assert manifest.arguments["learning_rate"] == 3e-3 and manifest.results["adapted_matrices"] == 9
    load_model(tmp_path / "run")
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()


def test_a_dry_run_counts_the_factors(call: Callable[..., Any], words: tuple[str, ...]) -> None:
    code, out, err = call(*words, "adapter=lora", "rank=4", "method=undial", "--dry-run")
    assert code == 0, err
    assert "default of lora" in out and "frozen start model" not in out
    for given, message in (
        (("adapter=lora", "rank=64"), "rank=64 is more than"),
        (("adapter=lora", "dropout=2"), "dropout must be between"),
        (("adapter=fila", "epsilon=-1"), "epsilon must be above 0; got -1"),
        (("adapter=vila", "retain_samples=1000000"), "retain_samples must be between 1 and"),
    ):
        code, out, err = call(*words, *given, "--dry-run")
        assert code == 1 and message in out + err


def test_a_dry_run_shows_what_settings_left_out_become(call: Callable[..., Any], words: tuple[str, ...]) -> None:
    code, out, err = call(*words, "adapter=fila", "rank=4", "--dry-run")
    assert code == 0, err
    settings = out.partition("\nData\n")[0]
    shown = {line.split()[0]: line for line in settings.splitlines() if line.strip()}
    # Six forget rows, of which a quarter is rounded up.
    for name, value in (
        ("lora_alpha", "8 (2 x rank)"),
        ("targets", "all-linear"),
        ("retain_samples", "2 (a quarter of the forget rows)"),
        ("importance", "the cache"),
        ("micro_batch_size", "3 (the rows of a step on each device)"),
        ("device", "the first GPU" if torch.cuda.is_available() else "cpu"),
    ):
        assert value in shown[name] and "null" not in shown[name]
    assert "1 epoch of 6 rows in steps of 3: 2 steps, 3 rows at once, 1 time a step" in out


@pytest.mark.filterwarnings("always:rank=16")
def test_an_adapter_is_held_against_the_model(call: Callable[..., Any], words: tuple[str, ...]) -> None:
    total = sum(p.numel() for p in zoo.tiny_model().parameters())
    told = call(*words, "adapter=lora", "rank=4", "--dry-run")
    # 3 blocks of rank * (in + out): 5568, as below.
    assert f"5568 numbers are trained, {5568 / total:.2%} of the model's {total} weights" in told.out
    assert "stands for only" not in told.err
    # q and k are 32 x 32 and 16 x 32: at rank 16 3 * 16 * (64 + 48 + 48 + 64) = 10752 numbers for 3 * 3072 = 9216.
    told = call(*words, "adapter=lora", "rank=16", "targets=attention", "--dry-run")
    assert "the adapter holds 10752 numbers and the 12 matrices that it stands for only 9216" in told.err


def test_settings_of_adapters_and_methods_are_explained(call: Callable[..., Any]) -> None:
    out = " ".join(call("unlearn", "method=npo", "adapter=vila", "--help").out.split())
    assert "beta: number = 0.1 Above 0. As it tends to 0" in out
    assert "lora_alpha: number or null Numerator of the scaling" in out
    for name in catalogue.names("adapters"):
        undocumented = [s.name for s in parameters(catalogue.resolve("adapters", name), owner=name) if not s.doc]
        assert undocumented == []


def test_a_dry_run_counts_the_importance_pass(call: Callable[..., Any], words: tuple[str, ...]) -> None:
    code, out, err = call(*words, "adapter=fila", "targets=mlp", "--dry-run")
    assert code == 0, err
    # Nine matrices of 48 x 32 float32 numbers: 55296 bytes.
    assert "importance is measured before training, in " in out and "and 0.1 MB of the computer's own memory" in out
    for others in (("adapter=vila",), ("adapter=lora",)):
        code, out, err = call(*words, *others, "targets=mlp", "--dry-run")
        assert code == 0 and "own memory" not in out and ("importance is measured" in out) == ("adapter=vila" in others)
    model = zoo.tiny_model()
    parts = {"weights": 1000.0, "activations": 200.0}
    # Of the two, up_proj is 48 x 32 and q_proj 32 x 32: 1200 + 4 * 4 * 1536 on the device, 4 * (1536 + 1024) beside.
    names = ("model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj")
    assert importance_memory(model, names, parts, whole_map=True) == (25776, 10240)
    assert importance_memory(model, names, parts, whole_map=False) == (25776, 0)


def test_a_dry_run_counts_what_the_mask_leaves_to_the_adapter(
    call: Callable[..., Any], words: tuple[str, ...], model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    matrices, weights = (layout(model, unit=unit, modules="linear") for unit in ("matrix", "weight"))
    chosen = ("model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.k_proj.weight")
    Mask(matrices, {n: pack(torch.tensor([n in chosen])) for n in matrices.groups}).save(tmp_path / "two.safetensors")
    code, out, err = call(*words, "adapter=lora", "rank=4", f"mask={tmp_path}/two.safetensors", "--dry-run")
    assert code == 0, err
    # rank * (in + out): down 48 + 32 = 80, k 32 + 16 = 48; 4 * 128.
    assert "lora on 2 matrices" in out and "512 numbers are trained" in out
    Mask(weights, {n: pack(torch.ones(k, dtype=torch.bool)) for n, k in weights.groups.items()}).save(
        tmp_path / "weights.safetensors"
    )
    code, out, err = call(*words, "adapter=lora", f"mask={tmp_path}/weights.safetensors", "--dry-run")
    assert code == 1 and "a mask of unit=weight does not go with an adapter" in out + err


def test_matrices_that_memflex_picks_are_the_ones_that_lora_trains(
    call: Callable[..., Any], words: tuple[str, ...], model_folder: Path, data: Path, tmp_path: Path
) -> None:
    files = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    path = tmp_path / "matrices.safetensors"
    told = call(
        "localize", f"model={model_folder}", *files, "attribution=memflex", "unit=matrix", "count=4", f"output={path}"
    )
    assert told.code == 0, told.err
    mask = Mask.load(path)
    chosen = {name for name in mask.layout.parts if mask.indices(name).numel()}
    scores = localize(
        load_model(model_folder),
        zoo.tokenizer(),
        load_corpus("files", **dict(f.split("=") for f in files)),
        attribution="memflex",
        unit="matrix",
    )
    assert len(chosen) == 4 and scores.select(count=4) == mask
    with_mask = (*words, "adapter=lora", "rank=2", "learning_rate=1e-2", f"mask={path}")
    assert "lora on 4 matrices" in call(*with_mask, "--dry-run").out
    told = call(*with_mask, "save=adapter")
    assert told.code == 0, told.err
    factors = load_file(tmp_path / "run/adapter_model.safetensors")
    assert {name.removeprefix("base_model.model.").split(".lora_")[0] + ".weight" for name in factors} == chosen
    before, after = (load_model(folder).state_dict() for folder in (model_folder, tmp_path / "run"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == chosen


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("adapter=lorra",), "Did you mean 'lora'"),
        (("rank=4",), "(from command line). rank is a setting of adapters: adapter=lora."),
        (("adapter=lora", "epsilon=auto"), "epsilon is a setting of fila, vila: adapter=fila."),
        (("targets=mlp",), "targets=mlp needs an adapter"),
        (("bits=4", "adapter=lora", "save=adapter"), "bits=4 needs a GPU"),
        (("stop=forget_rouge=0.1",), "is not a condition"),
        (("stop=forget_rouge<=unseen",), "needs a holdout set"),
    ],
)
def test_mistakes_are_told(
    call: Callable[..., Any], words: tuple[str, ...], given: tuple[str, ...], message: str
) -> None:
    code, out, err = call(*words, *given)
    assert code == 2 and message in out + err


def test_a_run_stops_by_what_it_measured(call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path) -> None:
    unseen = tmp_path / "holdout.jsonl"
    row = '{"question": "Where does %s live?", "answer": "In a house by the sea."}\n'
    unseen.write_text(row % "Cleo" + row % "Cleon")
    words += ("adapter=lora", f"holdout={unseen}", "learning_rate=1e-2", "stop_rows=2", "method=grad_ascent")
    told = call(*words, "stop=forget_probability<=0")
    assert told.code == 0, told.err
    results = Manifest.load(tmp_path / "run").results
    look = results["stop_look"]
    assert look["step"] == 2 and "stopped" not in results
    said = f"not met after 2 steps: forget_probability {look['forget_probability']:.4g} (wanted <=0)"
    assert f"the rule to stop by was {said}" in told.out.splitlines()
    start = float(re.findall(r"start model: forget_probability (\S+)", told.out)[0])
    rule = f"stop=forget_probability<={start * 0.999},forget_exact_memorization<=unseen"
    # Ascent lowers it, and a random model knows neither set by heart: the first look, after an epoch, ends the run.
    told = call(*words, "epochs=5", rule, "--overwrite")
    assert told.code == 0, told.err
    results = Manifest.load(tmp_path / "run").results
    assert results["steps"] == 2 and results["stopped"].startswith("step 2: forget_probability")
    value = results["stop_look"]["forget_probability"]
    assert f"stopped at step 2 of 10: forget_probability {value:.4g} (wanted <=" in told.out
    again = call(*words, "epochs=5", rule, "--resume")
    assert again.code == 0 and "is finished already" in again.out and "stopped at step 2" in again.out
    told = call(*words, "stop=forget_probability<=1", "--overwrite")
    assert told.code == 2 and "nothing to unlearn by this measure" in told.err


def test_what_was_kept_is_named(call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path) -> None:
    told = call(*words, "adapter=lora", "save=adapter")
    assert told.code == 0 and f"adapter (on {words[1].removeprefix('model=')}), history and manifest: " in told.out
    told = call(*words, "adapter=lora", "save=both", "--overwrite")
    assert told.code == 0 and f"model, adapter ({tmp_path}/run/adapter), history and manifest: " in told.out


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_resuming_says_what_it_does_and_what_differs(
    call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words += ("adapter=lora", "save=adapter", "epochs=2", "keep_checkpoints=0", "checkpoint_every=1")
    with monkeypatch.context() as patched:  # as if it had been killed after its last step
        patched.setattr("expunge.training.run.move_into", interrupted)
        assert call(*words).code == 130
    differs = call(*words, "rank=4", "--resume")
    assert differs.code == 2 and "adapter_settings.rank: 8 then, 4 now" in differs.err and "{" not in differs.err
    told = call(*words, "--resume")
    assert told.code == 0 and "resume: going on from step 2 of 4" in told.out, told.err
    replace(Manifest.load(tmp_path / "run"), results={}).save(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    told = call(*words, "--resume")
    assert told.code == 0 and "resume: no whole checkpoint: starting from the first step" in told.out


def test_the_folder_of_an_adapter_is_a_model_to_every_dry_run_and_evaluation(
    call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    assert call(*words, "adapter=lora", "rank=2", "save=both").code == 0
    adapter, again = tmp_path / "run/adapter", [word for word in words if not word.startswith(("model=", "output="))]
    data = [word for word in again if word.startswith(("forget=", "retain="))]
    told = call("evaluate", f"model={adapter}", *data, "--dry-run")
    assert told.code == 0 and "No problem found" in told.out, told.err + told.out
    told = call("evaluate", f"model={adapter}", *data, "metrics=forget_probability")
    assert told.code == 0 and (tmp_path / "run-records/adapter").is_dir(), told.err
    told = call(*again, f"model={adapter}", f"output={tmp_path}/next", "--dry-run")
    assert told.code == 0 and "No problem found" in told.out, told.err + told.out
    for flags in ((), ("--dry-run",)):
        code, out, err = call(
            *again, f"model={adapter}", f"output={tmp_path}/next", "adapter=lora", "save=adapter", *flags
        )
        assert code != 0 and "Say save=merged" in out + err
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("bits=5", "adapter=lora", "save=adapter"), "bits must be 8 or 4; got 5"),
        (("bits=4",), "quantized weights cannot be trained themselves"),
        (("bits=4", "adapter=lora"), "bits=4 needs save=adapter"),
        (("bits=4", "adapter=lora", "save=adapter", "device=cpu"), "bits=4 needs a GPU"),
        (("stop=forget_prob<=0.2",), "forget_prob"),
        (("stop=forget_probability",), "is not a condition"),
        (("stop=forget_probability<=unseen",), "needs a holdout set"),
    ],
)
def test_a_dry_run_tells_what_the_run_would_fail_at(
    call: Callable[..., Any], words: tuple[str, ...], given: tuple[str, ...], message: str
) -> None:
    code, out, err = call(*words, *given, "--dry-run")
    assert code != 0 and message in out + err and "No problem found" not in out


def test_a_dry_run_compares_with_the_run_that_would_be_resumed(
    call: Callable[..., Any], words: tuple[str, ...]
) -> None:
    settings = ("adapter=lora", "rank=2", "stop=forget_probability<=0", "stop_rows=2", "stop_every=2")
    assert call(*words, *settings).code == 0
    told = call(*words, *settings, "micro_batch_size=1", "--resume", "--dry-run")
    assert told.code == 0 and "No problem found" in told.out, told.out
    told = call(*words, *settings, "rank=4", "--resume", "--dry-run")
    assert told.code == 1 and "adapter_settings.rank: 2 then, 4 now" in told.out
    told = call(*words, *settings, "stop_rows=3", "--resume", "--dry-run")
    assert told.code == 1 and "stop.rows: 2 then, 3 now" in told.out


@pytest.mark.parametrize("adapter", ["fila", "vila"])
def test_an_importance_file_that_does_not_fit_is_told_before_anything_is_written(
    call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path, adapter: str
) -> None:
    file, run = tmp_path / "i.safetensors", tmp_path / "run"
    given = (*words, f"adapter={adapter}", "epsilon=auto", "rank=2", f"importance={file}")

    def refused(*more: str, by: tuple[tuple[str, ...], ...] = ((), ("--dry-run",)), message: str) -> None:
        for flags in by:
            code, out, err = call(*given, *more, *flags)
            assert code != 0 and message in out + err, out + err
        assert not run.exists()

    file.write_bytes(b"nothing of the kind")
    refused(message="cannot read the importance file")
    save_file({"a": torch.ones(2)}, file)
    refused(message="is not an importance file: it lacks key and report")
    file.unlink()
    assert call(*given, "targets=mlp").code == 0
    run.rename(tmp_path / "first")
    refused(message="holds 9 matrices, and they are not the 21 that are adapted")
    refused("targets=mlp", "fisher=batch", by=((),), message="belongs to another model, other data or other settings")
    assert call(*given, "targets=mlp", "--dry-run").code == 0
