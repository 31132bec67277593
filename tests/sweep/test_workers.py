"""Signs of life, and who is taken to be gone; the clock is the test's."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.sweep.workers import FOLDER, Watch, Worker, alive, exists, present


class Clock:
    """Time that stands still until it is told to go on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def elsewhere(number: int = 1) -> Worker:
    return Worker(f"other-{number}", "other", number, "another machine")


def sign(folder: Path, worker: Worker, count: int) -> None:
    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / FOLDER / f"{worker.id}.json").write_text(json.dumps({"signs": count}))


def test_a_worker_elsewhere_is_gone_once_its_sign_stays_the_same(tmp_path: Path) -> None:
    clock, worker = Clock(), elsewhere()
    watch = Watch(tmp_path, gone_after=60, clock=clock)
    sign(tmp_path, worker, 1)
    assert not watch.gone(worker)
    clock.now += 59
    assert not watch.gone(worker)
    sign(tmp_path, worker, 2)
    clock.now += 59
    assert not watch.gone(worker)  # a new sign
    clock.now += 60
    assert not watch.gone(worker)
    clock.now += 1
    assert watch.gone(worker)
    sign(tmp_path, worker, 3)
    assert not watch.gone(worker)  # it was only slow


def test_a_worker_elsewhere_whose_sign_is_missing_is_waited_for_as_long(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, gone_after=60, clock=clock)
    assert not watch.gone(elsewhere())
    clock.now += 61
    assert watch.gone(elsewhere()) and not watch.gone(elsewhere(2))


def test_a_process_of_this_machine_is_gone_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = replace(Worker.here(), pid=process.pid)
    watch = Watch(tmp_path)
    try:
        assert exists(process.pid) and not watch.gone(here)
    finally:
        process.kill()
        assert process.stdin is not None
        process.stdin.close()
    for _ in range(1000):  # it has ended, though its parent has not asked for its exit code
        if not exists(process.pid):
            break
        time.sleep(0.01)
    assert watch.gone(here)
    assert not watch.gone(replace(here, place="another machine"))  # where this number says nothing
    process.wait()
    assert watch.gone(here)


def test_this_process_exists_and_is_here() -> None:
    assert exists(os.getpid()) and Worker.here().is_here() and not elsewhere().is_here()
    assert Worker.here().id != Worker.here().id


def test_signs_are_given_until_the_end(tmp_path: Path) -> None:
    worker = Worker.here()
    path = tmp_path / FOLDER / f"{worker.id}.json"
    with alive(tmp_path, worker, every=0.01) as doing:
        doing("trial 7")
        first = json.loads(path.read_text())["signs"]
        waited = threading.Event()
        while json.loads(path.read_text())["signs"] < first + 3:
            waited.wait(0.01)
        (there,) = present(tmp_path)
        assert there["doing"] == "trial 7" and there["pid"] == os.getpid()
    assert not path.exists() and present(tmp_path) == []
    assert not any(thread.name == "sign of life" for thread in threading.enumerate())


def test_a_sign_that_cannot_be_written_is_told_and_ends_nothing(tmp_path: Path) -> None:
    with alive(tmp_path, Worker.here(), every=60) as doing:
        (tmp_path / FOLDER).rename(tmp_path / "away")
        with pytest.warns(UserWarning, match="no sign of life could be written"):
            doing("trial 1")
        (tmp_path / "away").rename(tmp_path / FOLDER)
