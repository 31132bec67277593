"""Every point once: two workers side by side, one that is gone, one that comes back."""

from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from optuna.trial import TrialState  # noqa: E402

from expunge.sweep.claims import GONE, MOST_ATTEMPTS, WHY, WITHDRAWN, Claims  # noqa: E402
from expunge.sweep.journal import opened, storage_of  # noqa: E402
from expunge.sweep.workers import Watch, Worker  # noqa: E402


class Present(Watch):
    """Says who is gone as the test wants it."""

    away: frozenset[str] = frozenset()

    def gone(self, worker: Worker) -> bool:
        return worker.id in self.away


@pytest.fixture(params=["journal", "sqlite"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Claims, Claims]:
    """Two workers with a storage object each, as in two processes."""
    url = None if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"
    return tuple(  # type: ignore[return-value]
        Claims(opened(storage_of(tmp_path, url), "s", 1), Worker(name, "host", 1, "place"), Present(tmp_path))
        for name in ("first", "second")
    )


def nothing(point: int) -> dict[str, str]:
    return {}


def test_two_workers_take_different_points(workers: tuple[Claims, Claims]) -> None:
    first, second = workers
    taken = [worker.take(range(3), nothing) for worker in (first, second, first, second)]
    assert [one and one[0] for one in taken] == [0, 1, 2, None]
    assert taken[0] is not None
    assert first.finish(taken[0][1], [1.0]) and first.take(range(3), nothing) is None
    assert not second.is_open(second.attempts()[0]) and second.is_open(second.attempts()[1])


def test_of_two_attempts_at_once_the_first_counts(workers: tuple[Claims, Claims]) -> None:
    first, second = workers
    ours = first._begin(0, {})
    assert ours is not None and second._begin(0, {}) is None  # it had seen the point as free
    attempts = second.attempts()[0]
    assert [one.state for one in attempts] == [TrialState.RUNNING, TrialState.FAIL]
    assert attempts[1].user_attrs[WHY] == WITHDRAWN
    assert first.holds(ours) and first.finish(ours, [1.0])


def test_the_point_of_a_worker_that_is_gone_is_run_again_with_the_same_values(workers: tuple[Claims, Claims]) -> None:
    first, second = workers
    taken = first.take([7], nothing)
    assert taken is not None
    value = taken[1].suggest_float("x", 0, 1)
    assert second.release_gone() == [] and second.take([7], nothing) is None
    second.watch.away = frozenset({"first"})  # type: ignore[attr-defined]
    assert [(point, worker.id) for point, worker in second.release_gone()] == [(7, "first")]
    assert second.release_gone() == []  # once
    again = second.take([7], nothing)
    assert again is not None and again[1].suggest_float("x", 0, 1) == value
    # The first one was only slow: what it found counts no more.
    assert not first.holds(taken[1]) and not first.finish(taken[1], [0.0])
    assert second.finish(again[1], [1.0])
    assert [(one.state, one.user_attrs.get(WHY)) for one in first.attempts()[7]] == [
        (TrialState.FAIL, GONE),
        (TrialState.COMPLETE, None),
    ]


def test_of_two_that_find_a_worker_gone_one_frees_its_point(workers: tuple[Claims, Claims]) -> None:
    first = workers[0]
    lost = Claims(first.study, Worker("lost", "host", 1, "place"), first.watch)
    lost.take([0], nothing)
    for worker in workers:
        worker.watch.away = frozenset({"lost"})  # type: ignore[attr-defined]
    assert sorted(len(worker.release_gone()) for worker in workers) == [0, 1]


def test_an_attempt_that_ended_between_is_not_freed(workers: tuple[Claims, Claims]) -> None:
    first, second = workers
    taken = first.take([0], nothing)
    assert taken is not None
    second.watch.away = frozenset({"first"})  # type: ignore[attr-defined]
    seen = second.attempts
    before = seen()
    object.__setattr__(second, "attempts", lambda: before)  # what it had read before the first one ended
    assert first.finish(taken[1], [1.0])
    assert second.release_gone() == []
    assert first.attempts()[0][0].state == TrialState.COMPLETE


def test_an_interrupted_attempt_frees_its_point_and_a_failed_one_closes_it(workers: tuple[Claims, Claims]) -> None:
    first, second = workers
    taken = first.take([0], nothing)
    assert taken is not None
    first.withdraw(taken[1])
    again = second.take([0], nothing)
    assert again is not None
    second.finish(again[1], None, why="no memory")
    assert first.take([0], nothing) is None and not first.is_open(first.attempts()[0])


def test_a_point_that_ends_every_worker_is_given_up(workers: tuple[Claims, Claims]) -> None:
    first, second = workers
    second.watch.away = frozenset({"first"})  # type: ignore[attr-defined]
    for _ in range(MOST_ATTEMPTS):
        assert not second.is_given_up(second.attempts().get(0, []))
        assert first.take([0], nothing) is not None
        second.release_gone()
    attempts = second.attempts()[0]
    assert second.is_given_up(attempts) and not second.is_open(attempts) and second.take([0], nothing) is None


def test_values_that_are_given_are_kept(workers: tuple[Claims, Claims]) -> None:
    taken = workers[0].take([3], lambda point: {"x": point / 10})
    assert taken is not None and taken[1].suggest_float("x", 0, 1) == 0.3
    assert workers[1].attempts()[3][0].params == {"x": 0.3}
