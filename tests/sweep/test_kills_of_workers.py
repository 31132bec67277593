"""Workers killed at random moments: no trial is lost, and none is run to its end twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from expunge.results.studies import TRIAL, finished
from expunge.sweep.claims import GONE, POINT, WHY
from expunge.sweep.journal import FILE, TORN, opened, storage_of

pytest.importorskip("optuna")

SCRIPT = Path(__file__).with_name("trivial_worker.py")
SIDE = 14


def begin(folder: Path, side: int, seconds: float, *more: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(SCRIPT), str(folder), str(side), str(seconds), *more]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def busy(folder: Path, pid: int) -> bool:
    """Is it running a trial?"""
    return any(f"-{pid}-" in path.name for path in (folder / "trials").glob(".*"))


def check(folder: Path, points: int, url: str | None = None) -> None:
    from optuna.trial import TrialState

    told = [json.loads((path / TRIAL).read_text()) for _, path in finished(folder)]
    assert [one["number"] for one in told] == [*range(points)]  # none lost
    assert len({json.dumps(one["point"]) for one in told}) == points
    assert all((path / "run" / "model").read_text() for _, path in finished(folder))  # each is whole
    study = opened(storage_of(folder, url), "study", 1)
    ended = Counter(t.user_attrs[POINT] for t in study.get_trials() if t.state == TrialState.COMPLETE)
    assert ended == Counter(range(points))  # none twice
    assert not [t for t in study.get_trials() if t.state == TrialState.RUNNING]
    assert not [*(folder / "trials").glob(".*")]  # what killed workers left is removed


@pytest.mark.parametrize("url", [None, "sqlite:///{}/study.db"])
def test_two_workers_share_a_study(tmp_path: Path, url: str | None) -> None:
    more = [] if url is None else [url.format(tmp_path)]
    workers = [begin(tmp_path, 3, 0.05, *more) for _ in range(2)]
    assert [worker.wait(240) for worker in workers] == [0, 0], (tmp_path / "log.txt").read_text()
    check(tmp_path, 9, *more)
    said = [int(line) for line in (tmp_path / "log.txt").read_text().splitlines() if line.isdecimal()]
    assert sum(said) == 9  # each trial was run by one of them


@pytest.mark.slow
def test_four_workers_of_which_ten_are_killed(tmp_path: Path) -> None:
    numbers = random.Random(0)
    workers = [begin(tmp_path, SIDE, 0.2) for _ in range(4)]
    until = time.monotonic() + 540
    while len([*finished(tmp_path)]) < 2:  # all libraries are loaded by then
        assert time.monotonic() < until, (tmp_path / "log.txt").read_text()
        time.sleep(0.1)
    for _ in range(10):
        time.sleep(0.5)
        while not (running := [i for i, worker in enumerate(workers) if busy(tmp_path, worker.pid)]):
            time.sleep(0.01)
        time.sleep(numbers.uniform(0, 0.3))  # in the middle of its trial, or of what it writes before and after
        victim = numbers.choice(running)
        workers[victim].send_signal(signal.SIGKILL)
        workers[victim].wait()
        workers[victim] = begin(tmp_path, SIDE, 0.2)
    for worker in workers:
        assert worker.wait(until - time.monotonic()) == 0, (tmp_path / "log.txt").read_text()
    check(tmp_path, SIDE**2)
    trials = opened(storage_of(tmp_path, None), "study", 1).get_trials()
    assert sum(trial.user_attrs.get(WHY) == GONE for trial in trials) >= 5  # the kills met trials
    torn = [*tmp_path.glob(f"{FILE}.{TORN}.*")]
    assert all(b"\n" not in path.read_bytes() for path in torn)  # at most a line is lost
