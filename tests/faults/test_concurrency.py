"""Two processes on one output: one is refused, and the other ends with what it would have made alone."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kills import one_thread

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.core.lock import locked

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {"method": "npo", "epochs": 2, "batch_size": 3, "learning_rate": 1e-3}


def unlearn(folder: Path | None, **how: Any) -> expunge.Run:
    return expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), output_dir=folder, **SETTINGS, **how)


@contextmanager
def meanwhile(work: Callable[[Callable[[], None]], Any]) -> Iterator[int]:
    """Another process, which waits where it calls its argument until this block is left; it must end well."""
    here, there = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1

        def wait() -> None:
            os.write(there[1], b"x")
            os.read(here[0], 1)

        try:
            work(wait)
            code = 0
        finally:
            os._exit(code)
    assert os.read(there[0], 1) == b"x"
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    os.write(here[1], b"x")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    for descriptor in (*here, *there):
        os.close(descriptor)


def test_a_run_that_goes_on_elsewhere_is_neither_resumed_nor_replaced(tmp_path: Path) -> None:
    def slow(wait: Callable[[], None]) -> None:
        unlearn(tmp_path / "run", progress=lambda what, done, *_: wait() if (what, done) == ("npo", 3) else None)

    with one_thread():
        whole = unlearn(tmp_path / "whole")
        with meanwhile(slow) as pid:
            for how in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(ExpungeError, match=f"run is being written by process {pid} on host .* since "):
                    unlearn(tmp_path / "run", **how)
    name = "model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert unlearn(tmp_path / "run", resume=True).history == whole.history
    assert {path.name for path in tmp_path.iterdir()} == {"run", "whole"}


WORDS = {
    **dict.fromkeys(("train", "unlearn", "localize", "evaluate", "attack"), ("model=m", "forget=f", "retain=r")),
    **dict.fromkeys(("compare", "experiment tdec", "report", "demo"), ()),
    "harness": ("model=m",),
    "patch create": ("base=b", "model=m"),
    **dict.fromkeys(("patch apply", "patch revert"), ("model=m", "patch=p")),
    **dict.fromkeys(("mask info", "mask select", "mask complement"), ("m.safetensors",)),
}


@pytest.mark.parametrize("verb", WORDS)
def test_every_verb_that_writes_is_refused_where_another_process_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    from expunge.cli import main

    output = tmp_path / "output"

    def holding(wait: Callable[[], None]) -> None:
        with locked(output):
            wait()

    with meanwhile(holding) as pid, pytest.raises(SystemExit) as ended:
        main([*verb.split(), *WORDS[verb], f"output={output}"])
    assert ended.value.code == 2 and f"is being written by process {pid}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
