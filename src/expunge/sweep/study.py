"""What a study is: the sampler, how long it goes on, what it looks for and how that is measured. No torch here."""

from dataclasses import dataclass
from typing import Literal, get_args

from expunge.config.field_types import check_types
from expunge.core.checks import ExpungeError, require_at_least, require_between, require_positive, unknown
from expunge.core.duration import seconds
from expunge.results.attacked import check_not_nothing
from expunge.sweep.objective import Constraint, read_objective
from expunge.sweep.samplers import Sampler
from expunge.training.training_config import LARGEST_SEED

DEFAULT_CONSTRAINT = "utility >= 0.95 of start"


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """How a study searches, and what it looks for."""

    sampler: Sampler | None = None
    """`grid`, `random`, `tpe`, `cmaes`, or `nsga2` for several objectives; null: grid where every setting has a list,
    else tpe."""
    trials: int | None = None
    """How many runs, those of all workers together; null: the whole grid, or as many as the budget allows."""
    budget: str | None = None
    """For how long a worker begins new runs, such as `2h` or `30min`. It begins none that would take longer, going by
    those before it."""
    objective: tuple[str, ...] = ()
    """What is to become small or large: `recovery` (the worst over `attacks`, above the control), `aues`, or any
    measure of the suite, `maximize forget_rouge` where it does not say which way is better. Several as `a,b`. Null:
    recovery where there is a control, else forget_extraction_strength."""
    constraint: tuple[str, ...] = (DEFAULT_CONSTRAINT,)
    """What every candidate must keep, such as `retain_rouge >= 0.9 of start`. `utility` is model utility where the
    data hold real authors and world facts, else the retain set's extraction strength."""
    control: str | None = None
    """Model that never saw the forget set: its folder or id, or the folder of what `attack` found on it."""
    attacks: tuple[str, ...] = ("quantize", "prompts")
    """For `recovery`: attacks on each candidate, besides the plain questions."""
    suite: str | None = None
    """Suite that the measures come from; null: `tofu` where the data hold real authors and world facts, else
    `default`."""
    rows: int | None = 100
    """A candidate is measured on the first so many rows of each set; null: all."""
    every: float = 1.0
    """Epochs between two candidates of a run. The end of a run is one, too."""
    prune: bool = True
    """End a run early that breaks a constraint and has forgotten less than half of the others had by then."""
    keep: Literal["best", "all"] = "best"
    """Which checkpoints of a run stay: that of its best candidate, or all."""
    storage: str | None = None
    """Database for who runs what, such as `postgresql://user@host/studies` or `sqlite:///study.db`; null: a journal in
    the study's folder."""
    seed: int = 0
    """Of the sampler. The seed of the runs is a setting of theirs."""
    replay: str | None = None
    """Folder of another study, of which the points are run again in their order."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("objective", "constraint", "attacks"):  # one text stands for a list of one
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.sampler is not None and self.sampler not in get_args(Sampler):
            raise unknown("sampler", self.sampler, get_args(Sampler))
        for name in ("trials", "rows"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        require_positive("every", self.every)
        check_not_nothing(self.control)
        require_between("seed", self.seed, 0, LARGEST_SEED)
        if self.keep not in ("best", "all"):
            raise ExpungeError(f"keep must be best or all; got {self.keep!r}.")
        if self.budget is not None:
            seconds(self.budget, "budget")
        for text in self.constraint:
            Constraint.read(text)
        for text in self.objective:
            read_objective(text)
