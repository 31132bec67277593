"""`expunge patch`, and masks on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from expunge.masks.mask import Mask
from made_masks import made_mask

Call = Callable[..., Any]


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return made_mask(zoo.tiny_model(), "value_vector").save(tmp_path / "mask.safetensors")


@pytest.fixture
def words(model_folder: Path, data: Path, tmp_path: Path, mask: Path) -> tuple[str, ...]:
    return (
        f"model={model_folder}",
        f"forget={data}/forget.jsonl",
        f"retain={data}/retain.jsonl",
        f"output={tmp_path}/run",
        f"mask={mask}",
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_masked_run_and_its_patch(call: Call, words: tuple[str, ...], model_folder: Path, tmp_path: Path) -> None:
    settings = ("epochs=1", "batch_size=3", "learning_rate=1e-2", "patch=true")
    assert call("unlearn", *words, *settings).code == 0
    start, run = weights(model_folder), weights(tmp_path / "run")
    changed = {name for name in start if not torch.equal(start[name], run[name])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(3)}

    own, made = tmp_path / "run/patch.safetensors", tmp_path / "made.safetensors"
    created = call("patch", "create", f"base={model_folder}", f"model={tmp_path}/run", f"output={made}")
    assert created.code == 0 and " weights (" in created.out
    assert "in use" in call("patch", "create", f"base={model_folder}", f"model={tmp_path}/run", f"output={made}").err
    for patch in (own, made):
        applied, restored = tmp_path / f"{patch.stem}-applied", tmp_path / f"{patch.stem}-restored"
        assert call("patch", "apply", f"model={model_folder}", f"patch={patch}", f"output={applied}").code == 0
        assert call("patch", "revert", f"model={applied}", f"patch={patch}", f"output={restored}").code == 0
        for folder, wanted in ((applied, run), (restored, start)):
            found = weights(folder)
            assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in found)
    refused = call("patch", "apply", f"model={tmp_path}/run", f"patch={own}", f"output={tmp_path}/no")
    assert refused.code == 2 and "It is the patch's result" in refused.err and not (tmp_path / "no").exists()
    told = call("patch", "info", f"patch={own}").out
    assert "made by unlearn with npo" in told and "slices along dimension 1" in told


def test_a_dry_run_shows_what_may_change(call: Call, words: tuple[str, ...], mask: Path) -> None:
    model, chosen = zoo.tiny_model(max_position_embeddings=512), Mask.load(mask)
    n = sum(int(chosen.dense(name).sum()) for name in chosen.layout.parts)
    share = n / sum(p.numel() for p in model.parameters())
    for verb in ("unlearn", "train"):
        code, out, _ = call(verb, *words, "--dry-run")
        assert code == 0
        assert f"{n // 32} units (value_vector): {n} weights may change, {share:.2%} of the model" in out
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
        assert rows["optimizer"] == [f"{8 * n / 1e6:.1f}", "MB"]


def test_mistakes(call: Call, words: tuple[str, ...], tmp_path: Path) -> None:
    missing = call("unlearn", *words, "mask=nowhere.safetensors", "--dry-run")
    assert missing.code == 1 and "no mask at nowhere.safetensors" in missing.out
    wrong = made_mask(zoo.tiny_model("gpt2"), "value_vector").save(tmp_path / "wrong.safetensors")
    refused = call("unlearn", *words, f"mask={wrong}")
    assert refused.code == 2 and "does not fit" in refused.err and "transformer.h.0.mlp.c_proj.weight" in refused.err
    alone = call("train", *words[:-1], "patch=true")
    assert alone.code == 2 and "name a mask" in alone.err
