"""`--launch`: the launcher's command, what is refused, and real processes that are started and killed."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import zoo
from expunge.cli import main
from expunge.cli.arguments import Arguments
from expunge.cli.launch import LaunchConfig, _failed, taken, words_of
from expunge.core.checks import ExpungeError

ROOT = Path(__file__).parents[2]
WORDS = ["model=start", "forget=forget.json", "retain=retain.json", "method=npo", "learning_rate=1e-3", "batch_size=5"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    zoo.tiny_model().save_pretrained(tmp_path / "start")
    zoo.tokenizer().save_pretrained(tmp_path / "start")
    for split in ("forget", "retain"):
        rows = [{"question": e.prompt, "answer": e.completion} for e in zoo.corpus()[split]]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says that it has eight."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def expunge(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "expunge", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(*words: str) -> subprocess.CompletedProcess[str]:
    process = expunge(*words)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.usefixtures("gpus")
def test_the_command_of_each_launch() -> None:
    words = ["model=a b", "--resume"]
    ends = ["-m", "expunge", "train", *words]
    assert LaunchConfig(launch="ddp", gpus=2).command("train", words) == (
        "torch.distributed.run",
        ["--nproc-per-node", "2", "--standalone", *ends],
    )
    assert LaunchConfig(launch="ddp").here == 8
    assert LaunchConfig(launch="ddp", processes=3).here == 3
    many = LaunchConfig(
        launch="fsdp2", gpus=4, nodes=2, node_rank=1, rendezvous="node0:29500", launcher={"tee": "3", "no-python": ""}
    )
    assert many.all == 8
    machines = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "node0", "--master-port", "29500"]
    assert many.command("train", words)[1] == [
        *("--nproc-per-node", "4", *machines, "--tee", "3", "--no-python"),
        *ends,
    ]
    zero = LaunchConfig(launch="zero3", gpus=4, nodes=2, node_rank=1, rendezvous="node0:29500", launcher={"debug": ""})
    module, command = zero.command("train", words)
    assert module == "accelerate.commands.launch"
    assert command[-4:] == ends[1:] and command[:3] == ["--use_deepspeed", "--zero_stage", "3"]


@pytest.mark.usefixtures("gpus")
def test_the_launchers_read_what_is_built() -> None:
    """Their own parsers, so that an argument that they no longer have is found."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import parse_args

    for launch in ("ddp", "zero2"):
        how = LaunchConfig(launch=launch, gpus=4, nodes=2, node_rank=1, rendezvous="node0:29500")  # type: ignore[arg-type]
        _, command = how.command("train", ["model=a", "--resume"])
        if launch == "ddp":
            read = parse_args(command)
            assert (read.nnodes, read.nproc_per_node, read.node_rank) == ("2", "4", 1)
            assert (read.master_addr, read.master_port) == ("node0", 29500)
        else:
            read = launch_command_parser().parse_args(command)
            assert (read.num_processes, read.num_machines, read.machine_rank) == (8, 2, 1)
            assert (read.zero_stage, read.use_deepspeed) in ((2, True), ("2", True))
            assert (read.main_process_ip, read.main_process_port) == ("node0", 29500)
        assert read.module and read.training_script == "expunge"
        assert read.training_script_args == ["train", "model=a", "--resume"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": 2}, "gpus goes with --launch"),
        ({"launch": "ddp", "gpus": 0}, "gpus must be"),
        ({"launch": "ddp", "gpus": 2, "processes": 2}, "give one of the two"),
        ({"launch": "zero2", "processes": 2}, "launch=zero2 needs GPUs"),
        ({"launch": "ddp", "nodes": 2}, "several machines meet at the first one"),
        ({"launch": "ddp", "rendezvous": "node0:1"}, "several machines meet at the first one"),
        ({"launch": "ddp", "nodes": 2, "rendezvous": "node0"}, "must be host:port"),
        ({"launch": "ddp", "nodes": 2, "node_rank": 2, "rendezvous": "node0:1"}, "node_rank must be"),
    ],
)
def test_settings_that_fit_no_launch(given: dict[str, object], message: str) -> None:
    with pytest.raises(ExpungeError, match=message):
        LaunchConfig(**given)  # type: ignore[arg-type]


def test_what_this_machine_and_the_verb_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ExpungeError, match=r"this machine has none. On its CPU: --processes 2"):
        _ = LaunchConfig(launch="ddp", gpus=2).here
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ExpungeError, match="gpus=2, and this machine has 1"):
        _ = LaunchConfig(launch="ddp", gpus=2).here
    with pytest.raises(ExpungeError, match="evaluate has none"):
        LaunchConfig(launch="zero3").check("evaluate")
    with pytest.raises(ExpungeError, match="an attack changes whole weights"):
        LaunchConfig(launch="fsdp2").check("attack")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExpungeError, match=re.escape("pip install 'expunge[deepspeed]'")):
        LaunchConfig(launch="zero3").check("train")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ExpungeError, match="Leave --launch out"):
        LaunchConfig(launch="ddp").check("train")


def test_the_words_of_the_launch_are_taken_out_of_the_others() -> None:
    given = Arguments(
        files=["a.yaml"], overrides=["launch=fsdp2", "processes=2", "launcher.tee=3", "seed=1"], flags={"resume"}
    )
    launch = taken(given, "unlearn")
    assert launch == LaunchConfig(launch="fsdp2", processes=2, launcher={"tee": "3"})
    assert words_of(given) == ["--config", "a.yaml", "seed=1", "sharded=true", "--resume"]
    plain = Arguments(overrides=["seed=1"])
    assert taken(plain, "unlearn") is None and plain.overrides == ["seed=1"]


def test_who_failed_first_is_said() -> None:
    assert _failed(1, 2, -9).startswith("process 1 of 2 was killed by SIGKILL, and the others were ended with it.")
    assert "ended with exit code 2" in _failed(0, 4, 2)


def test_a_dry_run_shows_the_command_and_the_share_of_each_process(here: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["unlearn", *WORDS, "output=run", "--launch", "ddp", "--processes", "3", "--dry-run"])
    shown = capsys.readouterr().out
    assert end.value.code == 0, shown
    assert "launch: python -m torch.distributed.run --nproc-per-node 3 --standalone -m expunge unlearn" in shown
    assert re.search(r"micro_batch_size\s+2 ", shown)  # five rows among three processes, filled up to six
    assert not (here / "run").exists() and "WORLD_SIZE" not in os.environ


@pytest.mark.usefixtures("gpus")
def test_the_examples_of_schedulers_build_commands_that_are_valid(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With stand-ins for the scheduler's programs; each command is then run dry."""
    page = (ROOT / "docs/distributed.md").read_text()
    programs = here / "programs"
    programs.mkdir()
    for name, body in {
        "scontrol": "echo node0; echo node1",
        "srun": 'for id in 0 1; do SLURM_NNODES=2 SLURM_NODEID=$id "$@"; done',
        "expunge": 'echo "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[0-1]"}
    commands = []
    for script in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        ran = subprocess.run(["bash", "-eu", "-c", script], env=env, capture_output=True, text=True, check=True)
        commands += [line.split() for line in ran.stdout.splitlines()]
    commands += [text.split() for text in re.findall(r'words = "(.*)"', page)]
    assert len(commands) == 1 + 2 + 1
    for number, words in enumerate(commands):
        words = [word.replace("my-model", "start").replace(".jsonl", ".json") for word in words]
        with pytest.raises(SystemExit) as end:
            main([*words, "--dry-run"])
        shown = capsys.readouterr()
        assert "-m expunge unlearn" in shown.out, (words, shown)
        if "ddp" in words:
            assert end.value.code == 0, (words, shown)
        else:
            assert f"--node-rank {max(0, number - 1)} --master-addr node0 --master-port 29500" in shown.out


@pytest.mark.slow
def test_divided_weights_make_the_update_of_one_process_and_are_saved_whole(here: Path) -> None:
    words = ["unlearn", *WORDS, "epochs=1.5"]  # a batch that does not divide, and a short last step
    launched = done(*words, "output=launched", "--launch", "fsdp2", "--processes", "2")
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert launched.stdout.count("unlearned with npo") == 1
    assert sorted(path.name for path in (here / "launched").glob("*.safetensors")) == ["model.safetensors"]
    assert "distributed_config" not in (here / "launched" / "config.json").read_text()
    with pytest.raises(SystemExit):
        main([*words, "output=alone"])
    ours, alone = (load_file(here / name / "model.safetensors") for name in ("launched", "alone"))
    assert ours.keys() == alone.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=2e-5, msg=name)


def rank_of(launcher: subprocess.Popen[str], rank: int) -> psutil.Process:
    children = psutil.Process(launcher.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(rank))


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_run_resumes_exactly(here: Path) -> None:
    words = ["unlearn", *WORDS, "epochs=40", "checkpoint_every=2", "keep_checkpoints=0"]
    two = ["--launch", "ddp", "--processes", "2"]
    whole = done(*words, "output=whole", *two)
    assert whole.returncode == 0, whole.stderr[-3000:]
    expected = load_file(here / "whole" / "model.safetensors")
    for name, how in (("two", two), ("one", [])):
        process = expunge(*words, f"output={name}", *two)
        until = time.monotonic() + 200
        while not list((here / name).glob("checkpoints/checkpoint-*/trainer_state.json")):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        victim = rank_of(process, 1)
        others = psutil.Process(process.pid).children(recursive=True)
        victim.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 128 + signal.SIGKILL, err[-2000:]
        assert "process 1 of 2 was killed by SIGKILL, and the others were ended with it." in err
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in others)
        resumed = done(*words, f"output={name}", "--resume", *how)
        assert resumed.returncode == 0, resumed.stderr[-3000:]
        assert "going on from step" in resumed.stdout
        found = load_file(here / name / "model.safetensors")
        for key, weight in expected.items():
            if how:
                assert torch.equal(found[key], weight), key
            else:
                torch.testing.assert_close(found[key], weight, rtol=1e-2, atol=1e-3, msg=key)


def after_a_step(process: subprocess.Popen[str], run: Path, *, steps: int) -> None:
    """Wait until a run has done so many steps."""
    until = time.monotonic() + 200
    history = run / "history.jsonl"
    while not history.is_file() or len(history.read_text().splitlines()) < steps:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
def test_divided_weights_are_resumed_after_ctrl_c_and_a_kill(here: Path) -> None:
    """To the bits of an undisturbed run."""
    words = ["unlearn", *WORDS, "epochs=8", "checkpoint_every=2"]
    two = ["--launch", "fsdp2", "--processes", "2"]
    whole = done(*words, "output=whole", *two)
    assert whole.returncode == 0, whole.stderr[-3000:]

    process = expunge(*words, "output=run", *two)
    after_a_step(process, here / "run", steps=3)
    process.send_signal(signal.SIGINT)  # torchrun passes it on, to each process at another moment
    _, err = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGINT, err[-2000:]
    assert err.count("interrupted: stopped at step") == 1 and "SIGINT was passed on to all processes" in err
    (latest,) = [int(found) for found in re.findall(r"stopped at step (\d+) of 10", err)]

    process = expunge(*words, "output=run", "--resume", *two)
    after_a_step(process, here / "run", steps=latest + 2)
    rank_of(process, 1).send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGKILL, err[-2000:]
    assert f"going on from step {latest}" in out
    assert "process 1 of 2 was killed by SIGKILL, and the others were ended with it." in err

    resumed = done(*words, "output=run", "--resume", *two)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    found, expected = (load_file(here / name / "model.safetensors") for name in ("run", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())
