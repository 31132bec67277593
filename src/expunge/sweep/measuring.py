"""How good a candidate is: its measures on a part of the rows, and what attacks draw out of it above a control."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attack.attack import attack
from expunge.comparison.areas import aues
from expunge.core.checks import ExpungeError
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.data.template import Template, dated
from expunge.evaluation.evaluate import evaluate, planned
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation, Measure
from expunge.sweep.objective import (
    AUES,
    RECOVERY,
    UTILITY,
    Constraint,
    Direction,
    Objective,
    direction_of,
    read_objective,
)
from expunge.sweep.study import StudyConfig

FORGET, RETAIN = "forget_extraction_strength", "retain_extraction_strength"
COMPUTED = (RECOVERY, AUES)
"""What no suite has."""
FULL_SETS = ("real_authors", "world_facts")
"""With them model utility is what its paper says."""

Asked = tuple[str, Direction | None]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How every candidate of a study is measured."""

    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    """The rows that are looked at."""
    asked: tuple[Asked, ...]
    """The objectives, and the direction of each where it was said."""
    constraints: tuple[Constraint, ...]
    suite: str
    attacks: tuple[str, ...] = ()
    controlled: bool = False
    """Does the study name a control?"""
    control: Attacked | None = None
    """What the attacks draw out of it, once that is known."""
    template: Template | None = None
    max_length: int = 512
    progress: Progress | None = None

    @property
    def names(self) -> list[str]:
        """The measures of the suite that are needed."""
        found = [*(name for name, _ in self.asked), *(one.measure for one in self.constraints)]
        found += [FORGET, RETAIN]  # of every candidate, for a curve of its run and for whoever compares studies
        return [name for name in dict.fromkeys(found) if name not in COMPUTED]

    def needs(self, name: str) -> bool:
        """Does an objective or a constraint ask for a measure?"""
        return name in (*(asked for asked, _ in self.asked), *(one.measure for one in self.constraints))

    def check(self) -> None:
        """Raise for measures that are unknown, or not available on this corpus or this study."""
        for one in self.constraints:
            if one.of_start and one.measure in COMPUTED:
                raise ExpungeError(f"constraint={one}: the start model has no {one.measure}. Give a number instead.")
        if self.needs(RECOVERY) and not self.controlled:
            raise ExpungeError(
                "recovery is what comes out above a control, and the study names none: control=<a model that never saw "
                "the forget set>"
            )
        planned(self.corpus, suite=self.suite, metrics=self.names, reference=None, start=None)

    def measured(self, model: PreTrainedModel | PeftModel, what: str) -> Evaluation:
        """What the suite says of a model."""
        return evaluate(
            model,
            self.tokenizer,
            self.corpus,
            suite=self.suite,
            metrics=self.names,
            template=self.template,
            max_length=self.max_length,
            label=what,
            progress=under(self.progress, what),
        )

    def attacked(self, model: PreTrainedModel | PeftModel, what: str) -> Attacked:
        """What the attacks of the study draw out of a model."""
        return attack(
            model,
            self.tokenizer,
            self.corpus,
            attacks=self.attacks,
            control=self.control,
            template=self.template,
            max_length=self.max_length,
            label=what,
            progress=under(self.progress, what),
        )

    def values(
        self,
        evaluation: Evaluation,
        model: PreTrainedModel | PeftModel,
        what: str,
        before: Sequence[Mapping[str, float]],
    ) -> dict[str, float]:
        """All that is measured of a candidate, as numbers.

        Args:
            evaluation: what the suite says of it.
            model: the candidate; left as it was.
            what: to call it in progress.
            before: the values of the start model and of the earlier candidates of the run.
        """
        found = {name: float(evaluation[name]) for name in self.names}
        if self.needs(RECOVERY):
            found[RECOVERY] = worst(self.attacked(model, what))
        if self.needs(AUES):
            found[AUES] = area([*before, found])
        return found

    def objectives(self, start: Mapping[str, Measure]) -> tuple[Objective, ...]:
        """The objectives with their directions, which the measures of the start model know."""
        return tuple(direction_of(name, way, start.get(name)) for name, way in self.asked)


def measuring(
    config: StudyConfig,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> Measuring:
    """How the candidates of a study are measured; the control is still to be attacked.

    Args:
        config: of the study.
        tokenizer: of the model.
        corpus: what the runs are made on.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: measures that are unknown or not available, or `recovery` without a control.
    """
    full = {*FULL_SETS} <= {*corpus}
    asked = tuple(map(read_objective, config.objective or ((RECOVERY,) if config.control else (FORGET,))))
    rows = config.rows
    found = Measuring(
        tokenizer=tokenizer,
        corpus=corpus if rows is None else Corpus({split: corpus[split][:rows] for split in corpus}, corpus.name),
        asked=tuple((_utility(name, full), way) for name, way in asked),
        constraints=tuple(
            replace(one, measure=_utility(one.measure, full)) for one in map(Constraint.read, config.constraint)
        ),
        suite=config.suite or ("tofu" if full else "default"),
        attacks=config.attacks,
        controlled=config.control is not None,
        template=dated(template, tokenizer),
        max_length=max_length,
        progress=progress,
    )
    found.check()
    return found


def _utility(name: str, full: bool) -> str:
    return ("model_utility" if full else RETAIN) if name == UTILITY else name


def worst(found: Attacked) -> float:
    """The largest mean recovery above the control over the attacks that have a verdict; NaN where none has."""
    means = [column.mean for column in found.columns if column.status == "ran" and column.mean is not None]
    return max(means, default=math.nan)


def area(path: Sequence[Mapping[str, float]]) -> float:
    """AUES (hypervolume) of models with these measures; those without extraction strengths are left out."""
    known = [one for one in path if not math.isnan(one[FORGET] + one[RETAIN])]
    fs, rs = (
        np.clip(np.array(values), 0, 1) for values in zip(*((1 - o[FORGET], o[RETAIN]) for o in known), strict=True)
    )
    return aues(fs, rs)
