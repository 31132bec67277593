"""Run folders: never overwritten, resumed to the same bits, stopped politely."""

import json
import logging
import os
import re
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
import zoo
from expunge.core.checkpoints import close
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, file_digest, versions
from expunge.training.trainer import ObjectiveTrainer
from made_masks import made_mask

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


def test_a_run_that_is_older_than_a_setting_had_its_default(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(3))
    path = tmp_path / "run/manifest.json"
    about = json.loads(path.read_text())
    for younger in ("attention", "compile"):
        del about["arguments"][younger]
    path.write_text(json.dumps(about))
    with pytest.raises(ExpungeError, match=r"its arguments were others: attention: 'auto' then, 'eager' now. Put"):
        unlearn(tmp_path / "run", resume=True, attention="eager")
    assert len(unlearn(tmp_path / "run", resume=True).history) == 8


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


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def told_better(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4]["forget_loss"] = 0.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("checkpoints/checkpoint-6/complete.json", Path.unlink, "it has no complete.json, so writing it was cut off"),
    ("checkpoints/checkpoint-6/complete.json", torn, "its complete.json is damaged"),
    ("checkpoints/checkpoint-6/trainer_state.json", Path.unlink, "its file trainer_state.json is missing"),
    ("checkpoints/checkpoint-6/trainer_state.json", torn, r"trainer_state.json has \d+ bytes, and \d+ were written"),
    ("checkpoints/checkpoint-6/optimizer.pt", flipped, "the content of its file optimizer.pt is not what was written"),
    ("history.jsonl", told_better, "history.jsonl was changed before step 6"),
    ("history.jsonl", cut_short, "history.jsonl holds 4 steps before something is missing"),
]


def test_ctrl_c_in_the_last_step_ends_the_run_as_usual_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(what: str, done: int, total: int, text: str) -> None:
        if what == "npo" and done == total:
            os.kill(os.getpid(), signal.SIGINT)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("expunge.training.run.save_model", killed)
        unlearn(tmp_path / "run", progress=interrupt)
    resumed, whole = unlearn(tmp_path / "run", resume=True), unlearn(None)
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))
    assert resumed.history == whole.history


def test_a_finished_run_is_not_replaced_with_what_is_not_its_own_and_not_believed_once_changed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    unlearn(run)
    files = Manifest.load(run).results["files"]
    assert files == {name: file_digest(run / name) for name in files} and {"model.safetensors", "history.csv"} < {
        *files
    }
    (run / "notes.md").write_text("mine")
    with pytest.raises(ExpungeError, match=r"also holds what is not of this output: notes\.md"):
        unlearn(run, overwrite=True)
    (run / "notes.md").unlink()
    (run / "history.csv").write_text("step,forget_loss\n1,0\n")
    with pytest.raises(ExpungeError, match=r"history\.csv is not what the run wrote"):
        unlearn(run, resume=True)
    unlearn(run, overwrite=True)


@pytest.mark.parametrize(("file", "harm", "said"), DAMAGE, ids=[f"{f}-{h.__name__}" for f, h, _ in DAMAGE])
def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(
    tmp_path: Path, file: str, harm: Callable[[Path], None], said: str
) -> None:
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(7), keep_checkpoints=0)
    harm(tmp_path / "run" / file)
    with pytest.warns(UserWarning, match=f"checkpoint-6 is not used: .*{said}"):
        resumed = unlearn(tmp_path / "run", resume=True, keep_checkpoints=0)
    whole = unlearn(tmp_path / "whole", keep_checkpoints=0)
    a, b = load_file(tmp_path / "run/model.safetensors"), load_file(tmp_path / "whole/model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a) and resumed.history == whole.history
    assert [p.name for p in resumed.checkpoints] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert not (tmp_path / "run/history.jsonl").exists()


class Planted:
    """Runs code where a pickle of it is loaded without care."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("planted",)


def test_code_planted_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(5))
    checkpoint = tmp_path / "run/checkpoints/checkpoint-4"
    closing = json.loads((checkpoint / "complete.json").read_text())
    torch.save(Planted(), checkpoint / "optimizer.pt")
    (checkpoint / "complete.json").unlink()
    close(checkpoint, Manifest(**closing["manifest"]), steps=closing["steps"], history=closing["history"])
    with pytest.raises(ExpungeError, match=r"checkpoint-4 holds code where a run writes numbers"):
        unlearn(tmp_path / "run", resume=True)
    assert not (tmp_path / "planted").exists()


def test_a_file_in_the_place_of_the_checkpoints_is_found_before_the_first_step(tmp_path: Path) -> None:
    unlearn(tmp_path / "run")
    manifest = Manifest.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    replace(manifest, results={}).save(tmp_path / "run")
    (tmp_path / "run/checkpoints").touch()
    with pytest.raises(ExpungeError, match="checkpoints must be a folder, and is a file"):
        unlearn(tmp_path / "run", resume=True)


@pytest.mark.parametrize("harm", [torn, Path.unlink])
def test_a_run_without_its_manifest_goes_on_by_what_its_checkpoint_says(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(5))
    harm(tmp_path / "run/manifest.json")
    with (
        pytest.warns(UserWarning, match=r"manifest.json.*Using what the checkpoint .*checkpoint-4 says of the run"),
        pytest.raises(ExpungeError, match="its arguments were others: learning_rate"),
    ):
        unlearn(tmp_path / "run", resume=True, learning_rate=2e-3)
    with pytest.warns(UserWarning, match="Using what the checkpoint"):
        assert unlearn(tmp_path / "run", resume=True).history == unlearn(None).history
    assert expunge.Manifest.load(tmp_path / "run").results["finished"]


def test_a_torn_manifest_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(1))
    torn(tmp_path / "run/manifest.json")
    with pytest.raises(ExpungeError, match=r"manifest.json is damaged, or no manifest of expunge"):
        unlearn(tmp_path / "run", resume=True)


def test_the_state_of_a_checkpoint_does_not_grow_with_the_history(tmp_path: Path) -> None:
    unlearn(tmp_path / "run", keep_checkpoints=0)
    states = [json.loads(p.read_text()) for p in sorted((tmp_path / "run/checkpoints").glob("*/trainer_state.json"))]
    assert [state["global_step"] for state in states] == [2, 4, 6] and not any(s["log_history"] for s in states)


def test_the_columns_of_the_history_keep_their_order_when_a_run_is_resumed(tmp_path: Path) -> None:
    whole = unlearn(tmp_path / "whole")
    with pytest.raises(Killed):
        unlearn(tmp_path / "run", progress=killed_after(5))
    unlearn(tmp_path / "run", resume=True)
    assert (tmp_path / "run/history.csv").read_bytes() == (tmp_path / "whole/history.csv").read_bytes()
    assert list(whole.history[0])[:3] == ["loss", "forget_loss", "retain_loss"]


def test_other_versions_are_said_once_and_kept_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = versions()
    with monkeypatch.context() as then, pytest.raises(Killed):
        then.setattr("expunge.core.manifest.versions", lambda: now | {"torch": "2.6.0"})
        unlearn(tmp_path / "run", progress=killed_after(3))
    with (
        pytest.warns(
            UserWarning, match=rf"resumed under other versions: torch 2.6.0 then, {re.escape(now['torch'])} now"
        ),
        pytest.raises(Killed),
    ):
        unlearn(tmp_path / "run", progress=killed_after(5), resume=True)
    run = unlearn(tmp_path / "run", resume=True)
    assert run.manifest.results["earlier_versions"] == [now | {"torch": "2.6.0"}] and run.manifest.versions == now


def test_resuming_and_replacing_at_once_is_refused(tmp_path: Path) -> None:
    unlearn(tmp_path / "run")
    with pytest.raises(ExpungeError, match=r"--overwrite replaces .* and --resume goes on with it: give one"):
        unlearn(tmp_path / "run", resume=True, overwrite=True)


def test_a_kill_while_a_finished_run_is_tidied_up_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimizer and scheduler went first, and `--resume` took what was left for a whole checkpoint."""
    whole = unlearn(tmp_path / "whole")

    rmtree = shutil.rmtree

    def killed(path: Path | str, **how: Any) -> None:
        if Path(path) != tmp_path / "run/checkpoints":
            return rmtree(path, **how)
        for name in ("optimizer.pt", "scheduler.pt"):
            (tmp_path / "run/checkpoints/checkpoint-6" / name).unlink()
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("shutil.rmtree", killed)
        unlearn(tmp_path / "run")
    resumed = unlearn(tmp_path / "run", resume=True)
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_rule_that_ends_a_run_where_a_checkpoint_is_due_ends_a_resumed_one_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(model: Any, step: int) -> str | None:
        return "enough" if step == 4 else None

    def killed(*_: Any) -> None:
        raise Killed

    whole = unlearn(None, stop=rule)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("expunge.training.run.save_model", killed)
        unlearn(tmp_path / "run", stop=rule)
    resumed = unlearn(tmp_path / "run", stop=rule, resume=True)
    assert resumed.history == whole.history and len(whole.history) == 4


def test_a_run_that_is_refused_late_leaves_the_old_one_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlearn(tmp_path / "old")
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}

    def refused(*_: Any, **__: Any) -> None:
        raise ExpungeError("refused")

    monkeypatch.setattr("expunge.training.run.reached_parameters", refused)
    mask = made_mask(zoo.tiny_model())
    for folder, how in ((tmp_path / "new", {}), (tmp_path / "old", {"overwrite": True})):
        with pytest.raises(ExpungeError, match="refused"):
            unlearn(folder, mask=mask, **how)
    assert not (tmp_path / "new").exists()
    assert before == {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}


def test_a_link_to_a_run_is_replaced_where_it_points(tmp_path: Path) -> None:
    unlearn(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    unlearn(tmp_path / "link", overwrite=True, learning_rate=2e-3)
    assert (tmp_path / "link").is_symlink()
    assert expunge.Manifest.load(tmp_path / "run").arguments["learning_rate"] == 2e-3


def broken_model() -> Any:
    model = zoo.tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    return model


@pytest.mark.parametrize("stage", [expunge.unlearn, expunge.finetune])
def test_a_broken_start_model_is_refused_before_anything_is_written(tmp_path: Path, stage: Any) -> None:
    method = {"method": "npo"} if stage is expunge.unlearn else {}
    with pytest.raises(ExpungeError, match=r"start model is broken: model.layers.1.mlp.up_proj.weight"):
        stage(broken_model(), zoo.tokenizer(), zoo.corpus(), output_dir=tmp_path / "run", **method)
    overflows = zoo.tiny_model()
    with torch.no_grad():
        overflows.lm_head.weight.fill_(1e38)
    with pytest.raises(ExpungeError, match=r"no finite loss on rows of the .* set.*the learning rate has no part"):
        stage(overflows, zoo.tokenizer(), zoo.corpus(), output_dir=tmp_path / "run", **method)
    assert not list(tmp_path.iterdir())


def spoiled_at(step: int, value: float) -> Any:
    """A rule that never stops a run, but has a step leave other weights."""

    def rule(model: Any, done: int) -> str | None:
        if done == step:
            with torch.no_grad():
                model.lm_head.weight.fill_(value)
        return None

    return rule


@pytest.mark.parametrize(
    ("step", "value", "error"),
    [(4, float("inf"), "step 4 of 8 left weights"), (4, 1e38, "step 5 of 8"), (8, float("nan"), "step 8 of 8 left")],
)
def test_the_weights_that_are_called_good_are_finite_and_give_a_finite_loss(
    tmp_path: Path, step: int, value: float, error: str
) -> None:
    """Weights overflow in a step, or give no loss in the next one: the last checkpoint before is a good one."""
    last = {4: 2, 8: 6}[step]
    with pytest.raises(ExpungeError, match=rf"{error}.*last good weights are in .*checkpoint-{last}\."):
        unlearn(tmp_path / "run", stop=spoiled_at(step, value), stop_every=0.5)
    good = AutoModelForCausalLM.from_pretrained(tmp_path / f"run/checkpoints/checkpoint-{last}")
    assert all(p.isfinite().all() for p in good.parameters())
    assert not (tmp_path / "run/model.safetensors").exists()


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


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_of_a_model_with_a_tied_head_is_no_cause_for_a_warning(
    tmp_path: Path, tied: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    config = zoo.tiny_model().config
    config.tie_word_embeddings = tied

    def run(**how: Any) -> expunge.Run:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        return expunge.unlearn(model, zoo.tokenizer(), zoo.corpus(), output_dir=tmp_path / "run", **SETTINGS, **how)

    with pytest.raises(Killed):
        run(progress=killed_after(5))
    run(resume=True)
    assert "missing keys" not in caplog.text


def test_a_checkpoint_of_other_weights_is_an_error() -> None:
    with pytest.raises(ExpungeError, match=r"does not fit the model: a\.weight, b\.weight in one and not in the other"):
        trainer = object.__new__(ObjectiveTrainer)
        trainer.model, trainer.accelerator = zoo.tiny_model(), Accelerator(cpu=True)
        trainer._issue_warnings_after_load(SimpleNamespace(missing_keys=["b.weight"], unexpected_keys=["a.weight"]))
