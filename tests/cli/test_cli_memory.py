"""`memory=` and other options of `expunge unlearn` and `expunge train`: dry run and run choose and say the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.core.manifest import Manifest


@pytest.fixture
def words(model_folder: Path, data: Path, tmp_path: Path) -> tuple[str, ...]:
    """A short run."""
    return (
        "unlearn",
        f"model={model_folder}",
        f"forget={data}/forget.jsonl",
        f"retain={data}/retain.jsonl",
        "method=grad_diff",
        "epochs=1",
        "batch_size=6",
        "precision=float32",
        f"output={tmp_path}/run",
    )


def together(out: str) -> float:
    """MB that a dry run estimates in all."""
    line = next(line for line in out.splitlines() if line.startswith("together"))
    return float(line.split()[1])


def said(out: str) -> str:
    return next(line for line in out.splitlines() if line.startswith("to keep to memory="))


def test_dry_run_and_run_choose_the_same(call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path) -> None:
    free = call(*words, "--dry-run").out
    assert "6 rows at once" in free and "to keep to" not in free
    limit = f"memory={together(free) - 0.2:.1f}MB"
    dry = call(*words, limit, "--dry-run")
    assert dry.code == 0, dry.err
    assert together(dry.out) <= together(free) - 0.2
    assert "micro_batch_size=6" not in said(dry.out) and "gradient_checkpointing=false" in said(dry.out)
    run = call(*words, limit)
    assert run.code == 0, run.err
    assert said(run.out) == said(dry.out)
    arguments = Manifest.load(tmp_path / "run").arguments
    assert f"micro_batch_size={arguments['micro_batch_size']} " in said(run.out)


@pytest.mark.parametrize("dry", [True, False])
def test_too_little_is_refused_in_the_same_words(call: Callable[..., Any], words: tuple[str, ...], dry: bool) -> None:
    code, out, err = call(*words, "memory=1MB", *(["--dry-run"] if dry else []))
    assert code != 0
    assert "memory=1MB is less than this run takes however it is computed: 4" in " ".join((out + err).split())


def test_a_limit_and_sharded_weights_do_not_go_together(
    call: Callable[..., Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in (words, ("train", f"{words[1]}", f"data={words[3].partition('=')[2]}", "batch_size=10", words[-1])):
        code, out, err = call(*command, "memory=1GB", "sharded=true", "--dry-run")
        assert code != 0
        assert "memory=1GB plans no run with sharded=true" in " ".join((out + err).split())


def test_a_wrong_size_is_refused(call: Callable[..., Any], words: tuple[str, ...]) -> None:
    code, out, err = call(*words, "memory=40")
    assert code != 0 and "memory must be a size such as 40GiB or 512MB; got '40'" in out + err


def test_train_keeps_to_it_too(call: Callable[..., Any], model_folder: Path, data: Path, tmp_path: Path) -> None:
    words = ("train", f"model={model_folder}", f"data={data}/retain.jsonl", "batch_size=10", "epochs=1")
    words = (*words, "precision=float32", f"output={tmp_path}/trained")
    limit = f"memory={together(call(*words, '--dry-run').out) - 0.2:.1f}MB"
    dry, run = call(*words, limit, "--dry-run"), call(*words, limit)
    assert (dry.code, run.code) == (0, 0), run.err
    assert said(dry.out) == said(run.out) and "micro_batch_size=10" not in said(run.out)


@pytest.mark.parametrize("option", ["attention=flash_attention_2", "optimizer=adamw_8bit", "tf32=true"])
def test_options_that_need_a_gpu_are_refused_in_the_same_words(
    call: Callable[..., Any], words: tuple[str, ...], option: str
) -> None:
    dry, run = call(*words, option, "device=cpu", "--dry-run"), call(*words, option, "device=cpu")
    assert dry.code != 0 and run.code != 0
    said = next(line for line in dry.out.splitlines() if line.startswith(f"- {option} needs a"))
    assert " ".join(said.removeprefix("- ").split()) in " ".join(run.err.split())
