"""`--launch`: one command starts the processes that share its work, through torchrun or accelerate's launcher."""

import importlib
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.cli.arguments import Arguments
from expunge.cli.console import complain
from expunge.config.resolve import resolve
from expunge.config.settings import settings
from expunge.core.checks import ExpungeError, require_at_least, require_between
from expunge.core.progress import processes

TRAINING = ("train", "unlearn")
"""Verbs whose optimizer DeepSpeed can divide."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Several processes for one command."""

    launch: Literal["ddp", "fsdp2", "zero2", "zero3"] | None = None
    """Start processes that share the work: `ddp` (each holds the whole model), `fsdp2` (its weights are divided among
    them), `zero2` or `zero3` (DeepSpeed, for train and unlearn)."""
    gpus: int | None = None
    """GPUs of this machine, one process for each; null: all that it has."""
    processes: int | None = None
    """Processes on the CPU of this machine instead."""
    nodes: int = 1
    """Machines; the same command is given on each."""
    node_rank: int = 0
    """Number of this machine among them, from 0."""
    rendezvous: str | None = None
    """Host and port of machine 0, where all meet, such as `node0:29500`."""
    launcher: dict[str, str] = field(default_factory=dict)
    """Further arguments of torchrun, or of accelerate launch for DeepSpeed, passed on as they are:
    `launcher.max-restarts=3`."""

    def __post_init__(self) -> None:
        given = [name for name in FIELDS if getattr(self, name) != getattr(LaunchConfig, name, {})]
        if self.launch is None:
            if given:
                raise ExpungeError(f"{given[0]} goes with --launch. Say how the work is divided: --launch ddp")
            return
        for name in ("gpus", "processes", "nodes"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        if self.gpus is not None and self.processes is not None:
            raise ExpungeError("gpus and processes both say how many processes there are; give one of the two.")
        if self.processes is not None and self.launch.startswith("zero"):
            raise ExpungeError(f"launch={self.launch} needs GPUs, and processes= is for the CPU. Use ddp or fsdp2.")
        require_between("node_rank", self.node_rank, 0, self.nodes - 1)
        if (self.nodes > 1) != (self.rendezvous is not None):
            raise ExpungeError(
                "several machines meet at the first one: --nodes 2 --node-rank 0 --rendezvous node0:29500. Got "
                f"nodes={self.nodes}, rendezvous={self.rendezvous or 'null'}."
            )
        if self.rendezvous is not None and not re.fullmatch(r"[^:\s]+:\d+", self.rendezvous):
            raise ExpungeError(f"rendezvous must be host:port, such as node0:29500; got {self.rendezvous!r}.")

    @property
    def here(self) -> int:
        """Processes on this machine.

        Raises:
            ExpungeError: it lacks the GPUs.
        """
        if self.processes is not None:
            return self.processes
        import torch

        found = torch.cuda.device_count()
        if not found:
            raise ExpungeError(
                f"launch={self.launch} starts a process for each GPU, and this machine has none. On its CPU: "
                f"--processes {self.gpus or 2} instead of gpus."
            )
        if self.gpus is not None and self.gpus > found:
            raise ExpungeError(f"gpus={self.gpus}, and this machine has {found}.")
        return self.gpus or found

    @property
    def all(self) -> int:
        """Processes on all machines."""
        return self.here * self.nodes

    def check(self, verb: str) -> None:
        """Raise where a verb cannot be launched so, here.

        Args:
            verb: as it is called: `unlearn`.
        """
        assert self.launch is not None
        if processes() > 1:
            raise ExpungeError("a launcher has started these processes already. Leave --launch out.")
        if self.launch.startswith("zero"):
            if verb not in TRAINING:
                raise ExpungeError(
                    f"launch={self.launch} divides what an optimizer holds, and {verb} has none. Use --launch ddp, or "
                    "fsdp2 to divide the weights."
                )
            if importlib.util.find_spec("deepspeed") is None:
                raise ExpungeError(
                    f"launch={self.launch} needs DeepSpeed, which is not installed: pip install 'expunge[deepspeed]'. "
                    "fsdp2 divides weights and optimizer without it."
                )
        if self.launch == "fsdp2" and verb == "attack":
            raise ExpungeError("an attack changes whole weights, which fsdp2 divides. Use --launch ddp.")

    def command(self, verb: str, words: Sequence[str]) -> tuple[str, list[str]]:
        """The launcher's module, and its arguments.

        Args:
            verb: as it is called.
            words: that follow it in each process.
        """
        assert self.launch is not None
        further = [part for name, value in self.launcher.items() for part in _argument(name, value)]
        host, _, port = (self.rendezvous or "").partition(":")
        if self.launch.startswith("zero"):
            meeting = ["--main_process_ip", host, "--main_process_port", port] if self.nodes > 1 else []
            return "accelerate.commands.launch", [
                *("--use_deepspeed", "--zero_stage", self.launch.removeprefix("zero")),
                *("--num_processes", str(self.all), "--num_machines", str(self.nodes)),
                *("--machine_rank", str(self.node_rank), *meeting, *further, "-m", "expunge", verb, *words),
            ]
        machines = ["--nnodes", str(self.nodes), "--node-rank", str(self.node_rank)]
        meeting = [*machines, "--master-addr", host, "--master-port", port] if self.nodes > 1 else ["--standalone"]
        own = ["--nproc-per-node", str(self.here), *meeting, *further]
        return "torch.distributed.run", [*own, "-m", "expunge", verb, *words]


FIELDS = ("gpus", "processes", "nodes", "node_rank", "rendezvous", "launcher")
SETTINGS = settings(LaunchConfig)


def _argument(name: str, value: str) -> list[str]:
    return [f"--{name}"] if value.lower() in ("", "true") else [f"--{name}", value]


def taken(arguments: Arguments, verb: str) -> LaunchConfig | None:
    """The launch that the words of a command ask for, which are taken out of them; None where they ask for none.

    Args:
        arguments: of the command; `fsdp2` adds `sharded=true`.
        verb: that they are for.
    """
    names = {setting.name for setting in SETTINGS}
    own = [word for word in arguments.overrides if word.partition("=")[0].partition(".")[0] in names]
    arguments.overrides[:] = [word for word in arguments.overrides if word not in own]
    config = resolve(LaunchConfig, overrides=own).config
    if config.launch is None:
        return None
    config.check(verb)
    if config.launch == "fsdp2":
        arguments.overrides.append("sharded=true")
    return config


def words_of(arguments: Arguments) -> list[str]:
    """The words that give these arguments again."""
    files = [part for file in arguments.files for part in ("--config", file)]
    flags = [f"--{name.replace('_', '-')}" for name in sorted(arguments.flags)]
    return [*arguments.positional, *files, *arguments.overrides, *flags]


@contextmanager
def as_if_launched(config: LaunchConfig) -> Iterator[None]:
    """Settings that depend on the number of processes are shown as they would be in the processes."""
    with _environment(WORLD_SIZE=str(config.all)):
        yield


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def start(config: LaunchConfig, verb: str, words: Sequence[str]) -> int:
    """Run a verb in the processes of a launch; the exit code of the one that failed first, or 0.

    Args:
        config: how many, and where.
        verb: as it is called.
        words: that follow it in each process.

    Raises:
        KeyboardInterrupt: Ctrl-C, or another signal to end, which torchrun has passed on to the processes.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    module, command = config.command(verb, words)
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // config.here)))
    on_cpu = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"} if config.processes is not None else {}
    launcher: Any = importlib.import_module(module)
    try:
        with _environment(OMP_NUM_THREADS=threads, **on_cpu):
            if module == "torch.distributed.run":
                launcher.run(launcher.parse_args(command))
            else:
                launcher.launch_command(launcher.launch_command_parser().parse_args(command))
    except SignalException as error:
        raise KeyboardInterrupt(
            f"{error.sigval.name} was passed on to all processes; one that still ran after launcher.shutdown-timeout "
            f"(30 seconds unless set) was killed.{_again()}"
        ) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        complain(_failed(rank, config.all, failure.exitcode))
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


def _failed(rank: int, ranks: int, exitcode: int) -> str:
    how = f"ended with exit code {exitcode}"
    if exitcode < 0:
        how = f"was killed by {signal.Signals(-exitcode).name}"
    return f"process {rank} of {ranks} {how}, and the others were ended with it.{_again()}"


def _again() -> str:
    return " A run goes on from its last checkpoint with --resume." if "--resume" not in sys.argv else ""
