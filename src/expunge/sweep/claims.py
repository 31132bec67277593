"""Who runs which point: every point of a study is run to its end once, whoever is killed meanwhile.

An attempt is a trial of Optuna that says which point it is for. It is made in one entry of the storage, and all workers
see the entries in the same order: of several attempts at one point that are alive, the first counts, and the others
withdraw before they do anything. An attempt of a worker that is gone is marked as failed, and its point is free again.
A point is finished once an attempt is told so, or its folder is there (`places.py`), which comes first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from expunge.sweep.workers import Watch, Worker

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

POINT, WORKER, WHY = "point", "worker", "why"
"""Attributes of an attempt: the number of its point, who makes it, and why it came to nothing."""
GONE, WITHDRAWN = "its worker is gone", "withdrawn"
MOST_ATTEMPTS = 3
"""Attempts at a point whose workers are gone; after them the point is taken to be what ends them: out of memory."""


@dataclass(frozen=True)
class Claims:
    """The claims on the points of one study."""

    study: "Study"
    worker: Worker
    watch: Watch
    most_attempts: int = MOST_ATTEMPTS

    def attempts(self) -> "dict[int, list[FrozenTrial]]":
        """All attempts by point, in order."""
        found: dict[int, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if POINT in trial.user_attrs:
                found.setdefault(int(trial.user_attrs[POINT]), []).append(trial)
        return found

    def release_gone(self) -> list[tuple[int, Worker]]:
        """Free the points of workers that are gone; of each exactly one worker is told so, by what this returns."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        released = []
        for point, attempts in self.attempts().items():
            for attempt in attempts:
                if attempt.state != TrialState.RUNNING:
                    continue
                owner = Worker(**attempt.user_attrs[WORKER])
                if owner.id == self.worker.id or not self.watch.gone(owner):
                    continue
                with suppress(UpdateFinishedTrialError):  # another worker was first
                    # Without this attribute the attempt would look like one that ended by itself.
                    self.study._storage.set_trial_user_attr(attempt._trial_id, WHY, GONE)
                    self.study._storage.set_trial_state_values(attempt._trial_id, TrialState.FAIL)
                    released.append((point, owner))
        return released

    def take(self, points: Iterable[int], fixed: Callable[[int], Mapping[str, Any]]) -> "tuple[int, Trial] | None":
        """Begin an attempt at the first point that is free.

        Args:
            points: in the order in which they are to be run.
            fixed: values of a point that the sampler of the study does not choose.

        Returns:
            The point and its trial, of which the parameters are still to be asked for; None where no point is free.
        """
        attempts = self.attempts()
        for point in points:
            before = attempts.get(point, [])
            if not self.is_free(before):
                continue
            known = {name: value for attempt in before for name, value in attempt.params.items()}
            trial = self._begin(point, {**known, **fixed(point)})
            if trial is not None:
                return point, trial
        return None

    def _begin(self, point: int, fixed: Mapping[str, Any]) -> "Trial | None":
        import optuna
        from optuna.trial import TrialState

        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            user_attrs={POINT: point, WORKER: asdict(self.worker)},
            system_attrs={"fixed_params": dict(fixed)} if fixed else {},
        )
        number = self.study._storage.create_new_trial(self.study._study_id, template_trial=template)
        ours = self.study._storage.get_trial(number)
        others = self.attempts()[point]
        if any(_counts(other) and other.number < ours.number for other in others):
            self.withdraw(optuna.trial.Trial(self.study, number))
            return None
        self.study._thread_local.cached_all_trials = None  # a sampler is to see what was found since
        return optuna.trial.Trial(self.study, number)

    def is_free(self, attempts: "Sequence[FrozenTrial]") -> bool:
        """Is a point with these attempts still to be run?"""
        return not (self.is_given_up(attempts) or any(map(_counts, attempts)))

    def is_open(self, attempts: "Sequence[FrozenTrial]") -> bool:
        """Is a point with these attempts not finished: free, or being run?"""
        from optuna.trial import TrialState

        running = any(attempt.state == TrialState.RUNNING for attempt in attempts)
        return self.is_free(attempts) or running

    def is_given_up(self, attempts: "Sequence[FrozenTrial]") -> bool:
        """Did every worker that ran it end before it, so that no further one is to?"""
        gone = [attempt for attempt in attempts if attempt.user_attrs.get(WHY) == GONE]
        return len(gone) >= self.most_attempts

    def withdraw(self, trial: "Trial") -> None:
        """Give up an attempt that was interrupted; its point is free again."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with suppress(UpdateFinishedTrialError):
            self.study._storage.set_trial_user_attr(trial._trial_id, WHY, WITHDRAWN)
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def holds(self, trial: "Trial") -> bool:
        """Does an attempt still count, rather than that its worker was taken to be gone?"""
        from optuna.trial import TrialState

        return bool(self.study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING)

    def finish(
        self,
        trial: "Trial",
        values: Sequence[float] | None,
        *,
        violation: float = 0.0,
        pruned: bool = False,
        why: str = "",
    ) -> bool:
        """Tell how an attempt ended.

        Args:
            trial: the attempt.
            values: of the objectives; None: it failed.
            violation: by how much it breaks the constraints.
            pruned: was it ended early?
            why: it failed.

        Returns:
            Was it told? Not where the attempt was taken to be gone and another one is made.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        state = TrialState.FAIL if values is None else TrialState.PRUNED if pruned else TrialState.COMPLETE
        try:
            if why:
                trial.set_user_attr(WHY, why)
            if values is not None:
                trial.set_constraint("violation", violation)
            frozen = self.study._storage.get_trial(trial._trial_id)
            self.study.sampler.after_trial(self.study, frozen, state, values)
            self.study._storage.set_trial_state_values(trial._trial_id, state, values)
        except UpdateFinishedTrialError:
            return False
        return True


def _counts(attempt: "FrozenTrial") -> bool:
    """Is it running, or did it end as an attempt at its point that is not to be repeated?"""
    from optuna.trial import TrialState

    failed = bool(attempt.state == TrialState.FAIL)
    return not failed or attempt.user_attrs.get(WHY) not in (None, GONE, WITHDRAWN)
