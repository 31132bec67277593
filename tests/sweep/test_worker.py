"""The loop of a worker with runs that take no time: what fails, what is interrupted, what others did meanwhile."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")

from expunge.core.checks import ExpungeError  # noqa: E402
from expunge.sweep.claims import GONE, WHY, Claims  # noqa: E402
from expunge.sweep.journal import opened, storage_of  # noqa: E402
from expunge.sweep.objective import Standing  # noqa: E402
from expunge.sweep.places import running_folder, trial_folder  # noqa: E402
from expunge.sweep.samplers import source  # noqa: E402
from expunge.sweep.space import Space  # noqa: E402
from expunge.sweep.worker import Attempt, Labor, Outcome, Run, tidy, work  # noqa: E402
from expunge.sweep.workers import Watch, Worker  # noqa: E402

GOOD = Outcome(state="finished", standing=Standing(0.0, (1.0,)), record={"more": 3})


class Present(Watch):
    """Says who is gone as the test wants it."""

    away: frozenset[str] = frozenset()

    def gone(self, worker: Worker) -> bool:
        return worker.id in self.away


def labor(folder: Path, run: Run, name: str = "me", **changes: Any) -> Labor:
    space = Space.read({"x": [0, 1, 2]}, {})
    points = source("grid", space, seed=0, objectives=1)
    claims = Claims(opened(storage_of(folder, None), "s", 1), Worker(name, "host", 1, "here"), Present(folder))
    made = Labor(folder=folder, space=space, source=points, claims=claims, run=run, trials=3, wait=0.01)
    return replace(made, **changes)


def told(folder: Path, number: int) -> dict[str, Any]:
    return dict(json.loads((trial_folder(folder, number) / "trial.json").read_text()))


def test_every_point_is_run_and_kept(tmp_path: Path) -> None:
    seen: list[Attempt] = []

    def run(attempt: Attempt) -> Outcome:
        seen.append(attempt)
        (attempt.folder / "model").write_text(str(attempt.number))
        return GOOD

    assert work(labor(tmp_path, run)) == 3
    assert [(one.number, one.point) for one in seen] == [(0, {"x": "0"}), (1, {"x": "1"}), (2, {"x": "2"})]
    assert [(trial_folder(tmp_path, i) / "model").read_text() for i in range(3)] == ["0", "1", "2"]
    found = told(tmp_path, 2)
    assert {"state": "finished", "settings": {"x": 2}, "more": 3, "worker": "me"}.items() <= found.items()
    assert found["standing"] == {"violation": 0.0, "losses": [1.0]}
    assert work(labor(tmp_path, run)) == 0 and len(seen) == 3  # nothing is left


@pytest.mark.parametrize(
    "error", [ExpungeError("the loss is not finite"), MemoryError(), RuntimeError("CUDA out of memory. Tried\nx")]
)
def test_a_run_that_fails_is_kept_as_failed_and_the_others_go_on(tmp_path: Path, error: Exception) -> None:
    def run(attempt: Attempt) -> Outcome:
        if attempt.number == 1:
            (attempt.folder / "half").write_text("")
            raise error
        return GOOD

    assert work(labor(tmp_path, run)) == 3
    found = told(tmp_path, 1)
    assert (found["state"], found["standing"]) == ("failed", None)
    assert found["why"] == (str(error).partition("\n")[0] or "MemoryError")


@pytest.mark.parametrize("error", [KeyboardInterrupt, TypeError])
def test_what_is_interrupted_or_our_fault_is_left_to_the_next_worker(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def broken(attempt: Attempt) -> Outcome:
        raise error

    with pytest.raises(error):
        work(labor(tmp_path, broken))
    assert not [*(tmp_path / "trials").iterdir()]
    following = labor(tmp_path, lambda attempt: GOOD, "next")
    assert following.claims.is_free(following.claims.attempts()[0])
    assert work(following) == 3


def test_a_worker_that_is_taken_to_be_gone_withdraws(tmp_path: Path) -> None:
    others = labor(tmp_path, lambda attempt: GOOD, "other")
    others.claims.watch.away = frozenset({"me"})  # type: ignore[attr-defined]

    def slow(attempt: Attempt) -> Outcome:
        if attempt.number == 0:
            assert work(others) == 3  # in the meantime
        attempt.look(1, Standing(0.0, (0.0,)))
        pytest.fail("it went on")

    assert work(labor(tmp_path, slow)) == 0
    assert [told(tmp_path, i)["worker"] for i in range(3)] == ["other"] * 3
    assert not [*(tmp_path / "trials").glob(".*")]


def test_what_a_worker_makes_after_it_was_taken_to_be_gone_counts_no_more(tmp_path: Path) -> None:
    others = labor(tmp_path, lambda attempt: GOOD, "other")
    others.claims.watch.away = frozenset({"me"})  # type: ignore[attr-defined]
    runs: list[int] = []

    def slow(attempt: Attempt) -> Outcome:
        runs.append(attempt.number)
        if len(runs) == 1:
            tidy(others)  # which also takes its folder away
            attempt.folder.mkdir(exist_ok=True)  # as a run does that writes a checkpoint
        if len(runs) == 2:
            tidy(others)
            (attempt.folder / "checkpoint").write_text("")
        return GOOD

    assert work(labor(tmp_path, slow)) == 3
    assert runs == [0, 0, 0, 1, 2]
    made = [trial.user_attrs.get(WHY) for trial in others.claims.attempts()[0]]
    assert made == [GONE, GONE, None]


def test_a_finished_folder_of_which_nobody_told_is_taken_as_it_is(tmp_path: Path) -> None:
    done = labor(tmp_path, lambda attempt: GOOD, "done")
    assert work(replace(done, trials=1)) == 1
    (tmp_path / "journal.log").unlink()  # as if it was killed before it told
    numbers: list[int] = []

    def run(attempt: Attempt) -> Outcome:
        numbers.append(attempt.number)
        return GOOD

    assert work(labor(tmp_path, run)) == 2 and numbers == [1, 2]
    study = opened(storage_of(tmp_path, None), "s", 1)
    assert sorted(trial.params["x"] for trial in study.trials) == ["0", "1", "2"]
    assert all(trial.values == [1.0] and trial.constraints == {"violation": 0.0} for trial in study.trials)


def test_what_a_killed_worker_left_is_removed_and_its_point_run(tmp_path: Path) -> None:
    killed = labor(tmp_path, lambda attempt: GOOD, "killed")
    assert killed.claims.take([1], lambda point: {"x": "1"}) is not None
    left = running_folder(tmp_path, 1, "killed")
    left.mkdir(parents=True)
    now = labor(tmp_path, lambda attempt: GOOD)
    now.claims.watch.away = frozenset({"killed"})  # type: ignore[attr-defined]
    assert work(now) == 3 and not left.exists()


def test_a_worker_waits_for_the_last_trials_of_others(tmp_path: Path) -> None:
    other = labor(tmp_path, lambda attempt: GOOD, "other")
    assert other.claims.take([0], lambda point: {"x": "0"}) is not None
    ours = labor(tmp_path, lambda attempt: GOOD)
    looks: list[str] = []

    def doing(what: str) -> None:
        looks.append(what)
        if looks.count("waiting for the last trials") == 3:
            ours.claims.watch.away = frozenset({"other"})  # type: ignore[attr-defined]

    assert work(replace(ours, doing=doing)) == 3
    assert looks[:3] == ["trial 1", "trial 2", "waiting for the last trials"] and looks[-1] == "trial 0"


def test_a_point_that_ended_all_its_workers_is_kept_as_failed(tmp_path: Path) -> None:
    ours = labor(tmp_path, lambda attempt: GOOD)
    ours.claims.watch.away = frozenset({"killed"})  # type: ignore[attr-defined]
    for _ in range(3):
        killed = labor(tmp_path, lambda attempt: GOOD, "killed")
        assert killed.claims.take([0], lambda point: {"x": "0"}) is not None
        ours.claims.release_gone()
    assert work(ours) == 2
    assert told(tmp_path, 0)["state"] == "failed" and "3 workers ended while running it" in told(tmp_path, 0)["why"]
    assert {trial.user_attrs.get(WHY) for trial in ours.claims.attempts()[0]} == {GONE}


def test_no_run_is_begun_that_would_pass_the_time(tmp_path: Path) -> None:
    def run(attempt: Attempt) -> Outcome:
        time.sleep(0.3)
        return GOOD

    assert work(labor(tmp_path, run, seconds=0.5)) == 1
    assert work(labor(tmp_path, run, seconds=0.2)) == 0  # trials take longer, as is known by now
    assert work(labor(tmp_path, run, seconds=60)) == 2


def test_progress_says_how_many_of_all_workers_trials_are_done(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    done = labor(tmp_path, lambda attempt: GOOD, finished=lambda: f"{len([*(tmp_path / 'trials').glob('0*')])} there")
    work(replace(done, progress=lambda what, done, total, numbers: seen.append((done, total, numbers))))
    assert seen == [(0, 3, "0 there"), (1, 3, "1 there"), (2, 3, "2 there"), (3, 3, "3 there")]


def pruned(folder: Path, values: list[float], violation: float, **changes: Any) -> list[str | None]:
    """What a look at the last of these runs says; runs before it keep the constraint."""
    space = Space.read({"x": [*range(len(values))]}, {})
    reasons: list[str | None] = []

    def run(attempt: Attempt) -> Outcome:
        last = attempt.number == len(values) - 1
        good = Standing(violation if last else 0.0, (values[attempt.number],))
        reasons.append(attempt.look(1, good))
        return Outcome(state="pruned" if reasons[-1] else "finished", standing=good, why=reasons[-1] or "")

    points = source("grid", space, seed=0, objectives=1)
    made = labor(folder, run, space=space, source=points, trials=len(values), prunes=True)
    made.claims.study.pruner = optuna.pruners.MedianPruner()
    work(replace(made, **changes))
    return reasons


@pytest.mark.parametrize(
    ("last", "violation", "changes", "ends"),
    [
        (9.0, 0.1, {}, True),
        (9.0, 0.0, {}, False),  # it keeps the constraint, and may still forget
        (2.0, 0.1, {}, False),  # it forgets better than half of the others
        (9.0, 0.1, {"prunes": False}, False),
    ],
)
def test_hopeless_runs_are_ended(
    tmp_path: Path, last: float, violation: float, changes: dict[str, Any], ends: bool
) -> None:
    reasons = pruned(tmp_path, [1.0, 2.0, 3.0, 4.0, 5.0, last], violation, **changes)
    assert not any(reasons[:-1]) and bool(reasons[-1]) == ends
    assert told(tmp_path, 5)["state"] == ("pruned" if ends else "finished")


def test_infinite_numbers_are_told_as_large_ones(tmp_path: Path) -> None:
    lost: Callable[[Attempt], Outcome] = lambda attempt: Outcome(  # noqa: E731
        state="finished", standing=Standing(float("inf"), (float("inf"),))
    )
    assert work(labor(tmp_path, lost)) == 3
    assert told(tmp_path, 0)["standing"] == {"violation": 1e12, "losses": [1e12]}
