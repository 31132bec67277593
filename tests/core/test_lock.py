"""One writer for each output."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.lock import check_free, lock_file, locked

HOLD = """
import sys, time
from pathlib import Path
from expunge.core.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of an output until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_an_output_is_refused_while_another_process_writes_it_and_free_once_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    other = holder(tmp_path / "run")
    try:
        for path in (tmp_path / "run", tmp_path / "link"):  # two names of one output
            message = (
                rf"{path.name} is being written by process {other.pid} on host \S+ since 20\d\d-.*remove .*\.run\.lock"
            )
            with pytest.raises(ExpungeError, match=message), locked(path):
                pass
            with pytest.raises(ExpungeError, match=message):
                check_free(path)
        with locked(tmp_path / "run2"):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert lock_file(tmp_path / "run").exists()
    check_free(tmp_path / "run")
    with locked(tmp_path / "run"):
        check_free(tmp_path / "run")  # our own
        with locked(tmp_path / "run"):
            pass
        with ThreadPoolExecutor() as pool, pytest.raises(ExpungeError, match=f"process {os.getpid()} "):
            pool.submit(check_free, tmp_path / "run").result()
        assert lock_file(tmp_path / "run").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"link"}


def test_a_lock_of_another_host_is_never_taken_over(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        lines = lock_file(tmp_path / "run").read_text().split("\n")
    lock_file(tmp_path / "run").write_text("\n".join(["1", "elsewhere", *lines[2:]]))
    os.utime(lock_file(tmp_path / "run"), (time.time() - 86400,) * 2)
    with pytest.raises(ExpungeError, match="by process 1 on host elsewhere since"), locked(tmp_path / "run"):
        pass


def test_a_lock_is_released_where_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "deep" / "run"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "deep" / "run"):
        (tmp_path / "deep" / "run").mkdir()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]


def test_only_the_first_process_of_a_launcher_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with locked(tmp_path / "run"):
        assert not lock_file(tmp_path / "run").exists()


def test_links_that_point_at_each_other_are_no_output(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    with pytest.raises((ExpungeError, OSError), match="one"), locked(tmp_path / "one" / "run"):
        pass


def test_a_lock_that_a_process_left_empty_is_nobodys(tmp_path: Path) -> None:
    file = lock_file(tmp_path / "out")
    file.touch()
    with pytest.raises(ExpungeError, match=rf"If no process writes it, remove {re.escape(str(file))}"):
        with locked(tmp_path / "out"):
            pass
    os.utime(file, (0, 0))
    with locked(tmp_path / "out"):
        assert file.exists()
    assert not file.exists()
