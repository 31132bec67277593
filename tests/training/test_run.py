"""Run folders: never overwritten, resumed to the same bits, stopped politely."""

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
import zoo
from expunge.core.checks import ExpungeError

SETTINGS: dict[str, Any] = {"method": "npo", "epochs": 4, "batch_size": 3, "learning_rate": 1e-3}


def unlearn(folder: Path | None, **changes: Any) -> expunge.Run:
    return expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), output_dir=folder, **(SETTINGS | changes))


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def killed_after(step: int) -> Any:
    seen = {"n": 0}

    def progress(what: str, done: int, total: int, text: str) -> None:
        if what == "npo":
            seen["n"] = done
            if done == step:
                raise Killed

    return progress


def test_a_run_folder_is_a_model_with_its_story(tmp_path: Path) -> None:
    run = unlearn(tmp_path / "run")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    for name, p in run.model.named_parameters():
        assert torch.equal(dict(loaded.named_parameters())[name], p), name
    assert AutoTokenizer.from_pretrained(tmp_path / "run").get_vocab() == zoo.tokenizer().get_vocab()
    manifest = expunge.Manifest.load(tmp_path / "run")
    assert manifest.arguments["method"] == "npo" and manifest.arguments["hyperparameters"] == {"beta": 0.1}
    assert manifest.results["finished"] and manifest.results["steps"] == 8
    assert set(manifest.inputs) == {"model", "tokenizer", "forget", "retain"}
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 9
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("step", [3, 6])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, step: int) -> None:
    whole = unlearn(tmp_path / "whole")
    with pytest.raises(Killed):
        unlearn(tmp_path / "killed", progress=killed_after(step))
    assert not (tmp_path / "killed/model.safetensors").exists()
    resumed = unlearn(tmp_path / "killed", resume=True)
    a, b = load_file(tmp_path / "whole/model.safetensors"), load_file(tmp_path / "killed/model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert resumed.history == whole.history


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    unlearn(tmp_path / "run")
    before = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    again = unlearn(tmp_path / "run", resume=True)
    assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == before
    assert len(again.history) == 8


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(3))
    with pytest.raises(ExpungeError, match=r"its arguments were others: learning_rate: 0.001 then, 0.002 now"):
        unlearn(tmp_path / "run", resume=True, learning_rate=2e-3)
    with pytest.raises(ExpungeError, match="its inputs were others: forget: "):
        expunge.unlearn(
            zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(7), output_dir=tmp_path / "run", resume=True, **SETTINGS
        )


def test_folders_are_never_overwritten_unasked(tmp_path: Path) -> None:
    unlearn(tmp_path / "run")
    with pytest.raises(ExpungeError, match=r"is in use.*resume=True.*overwrite=True"):
        unlearn(tmp_path / "run")
    unlearn(tmp_path / "run", overwrite=True, learning_rate=2e-3)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(ExpungeError, match="replaces earlier output of train or unlearn only"):
        unlearn(mine, overwrite=True)
    for theirs in ('{"name": "a web page"}', "not even JSON", '{"stage": "evaluate", "arguments": {}}'):
        (mine / "manifest.json").write_text(theirs)  # others call their files so, too
        with pytest.raises(ExpungeError, match="replaces earlier output of train or unlearn only"):
            unlearn(mine, overwrite=True)
    assert (mine / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ExpungeError, match="nothing to resume"):
        unlearn(tmp_path / "new", resume=True)


def test_ctrl_c_leaves_a_loadable_checkpoint_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int, text: str) -> None:
        if what == "npo" and done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="resume=True"):
        unlearn(tmp_path / "run", progress=interrupt, checkpoint_every=0)
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    AutoModelForCausalLM.from_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(checkpoint)
    resumed = unlearn(tmp_path / "run", resume=True, checkpoint_every=0)
    whole = unlearn(None, checkpoint_every=0)
    for (name, p), q in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_checkpoint_that_was_cut_off_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(7), keep_checkpoints=0)
    latest = max((tmp_path / "run/checkpoints").iterdir(), key=lambda p: int(p.name.split("-")[1]))
    (latest / "trainer_state.json").unlink()
    unlearn(tmp_path / "run", resume=True, keep_checkpoints=0)
    whole = unlearn(tmp_path / "whole", keep_checkpoints=0)
    a, b = load_file(tmp_path / "run/model.safetensors"), load_file(tmp_path / "whole/model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [p.name for p in whole.checkpoints] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_missing_sets_are_named() -> None:
    only = expunge.Corpus({"forget": zoo.corpus()["forget"]}, "mine")
    with pytest.raises(ExpungeError, match="needs the set 'retain', and the corpus 'mine' holds only forget"):
        expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), only, method="npo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), only, method="npo", retain="none", epochs=1, batch_size=6)


def test_tokenizer_and_model_that_do_not_fit() -> None:
    with pytest.raises(
        ExpungeError, match="tokenizer and model do not fit: the tokenizer writes ids up to 319, the model embeds 64"
    ):
        expunge.unlearn(zoo.tiny_model(vocab_size=64), zoo.tokenizer(), zoo.corpus(), method="npo")


def test_finetuning_teaches(tmp_path: Path) -> None:
    run = expunge.finetune(
        zoo.tiny_model(),
        zoo.tokenizer(),
        zoo.corpus(),
        epochs=10,
        batch_size=5,
        learning_rate=3e-3,
        output_dir=tmp_path / "t",
    )
    assert run.history[-1]["retain_probability"] > 3 * run.history[0]["retain_probability"]
    assert json.loads((tmp_path / "t/manifest.json").read_text())["stage"] == "train"
