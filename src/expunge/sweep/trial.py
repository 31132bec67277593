"""One run of a study: unlearning from the start model. Each of its checkpoints is a candidate; the best one counts."""

import gc
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checkpoints import FOLDER as CHECKPOINTS
from expunge.core.progress import Progress, renamed
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION, records_folder
from expunge.results.studies import RUN
from expunge.sweep.measuring import Measuring
from expunge.sweep.objective import Objective, Standing, best, standing
from expunge.sweep.results import finite
from expunge.sweep.study import StudyConfig
from expunge.sweep.worker import Attempt, Outcome
from expunge.training.unlearn import unlearn

Model: TypeAlias = PreTrainedModel | PeftModel

OWN = ("stop_every", "checkpoint_every", "keep_checkpoints")
"""Settings of a run that a study decides."""


@dataclass
class Candidates:
    """A rule to stop by that measures the model at each look, and ends runs that are hopeless."""

    measuring: Measuring
    start: Mapping[str, float]
    """Measures of the start model."""
    objectives: tuple[Objective, ...]
    look: Callable[[int, Standing], str | None]
    folder: Path
    """The run folder."""
    keep_all: bool
    found: list[dict[str, Any]] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    evaluation: Evaluation | None = None
    """Of the best candidate."""
    pruned: str = ""
    about: str = "sweep: each look is a candidate"

    def __call__(self, model: nn.Module, step: int) -> str | None:
        """Measure the model as it is; the reason to end the run, if there is one."""
        reason = self.look(len(self.found) + 1, self.add(model, step))
        self.tidy(step)
        if reason is not None:
            self.pruned = reason
        return reason

    @property
    def chosen(self) -> int:
        """The position of the best candidate."""
        return best(self.standings)

    def add(self, model: nn.Module, step: int) -> Standing:
        """Measure a candidate and take it up."""
        assert isinstance(model, PreTrainedModel | PeftModel)
        before = [self.start, *(one["measures"] for one in self.found)]
        evaluation = self.measuring.measured(model, f"step {step}")
        values = self.measuring.values(evaluation, model, f"step {step}", before)
        good = standing(values, self.start, self.objectives, self.measuring.constraints)
        self.found.append({"step": step, "measures": values})
        self.standings.append(good)
        if self.chosen == len(self.found) - 1:
            self.evaluation = evaluation
        return good

    def tidy(self, last: int) -> None:
        """Remove checkpoints but that of the best candidate and that of the last step, which may still be written."""
        if not self.keep_all:
            stay = {f"checkpoint-{self.found[self.chosen]['step']}", f"checkpoint-{last}"}
            for path in (self.folder / CHECKPOINTS).glob("checkpoint-*"):
                if path.name not in stay:
                    shutil.rmtree(path)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All that the runs of a study have in common."""

    config: StudyConfig
    fresh: Callable[[], Model]
    """The start model, to be changed."""
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    """From a point, the arguments of `unlearn`."""
    masks: Callable[[Any], Path | str | None]
    """From a mask's file or recipe, its file."""
    measuring: Measuring
    start: Mapping[str, float]
    objectives: tuple[Objective, ...]
    template: Template | None = None
    max_length: int = 512
    progress: Progress | None = None

    def run(self, attempt: Attempt) -> Outcome:
        """Run a point, and say what came out."""
        settings = self.settings(attempt.point)
        mask = self.masks(settings.pop("mask", None))
        folder = attempt.folder / RUN
        candidates = Candidates(
            self.measuring, self.start, self.objectives, attempt.look, folder, self.config.keep == "all"
        )
        model = self.fresh()
        try:
            run = unlearn(
                model,
                self.tokenizer,
                self.corpus,
                mask=mask,
                stop=candidates,
                stop_every=self.config.every,
                checkpoint_every=self.config.every,
                keep_checkpoints=0,
                output_dir=folder,
                template=self.template,
                max_length=self.max_length,
                progress=renamed(self.progress, f"trial {attempt.number}"),
                **settings,
            )
            last = int(run.manifest.results["steps"])
            if not candidates.found or candidates.found[-1]["step"] != last:
                candidates.add(run.model, last)
            return self._outcome(candidates, attempt, last)
        finally:
            del model
            gc.collect()

    def _outcome(self, candidates: Candidates, attempt: Attempt, last: int) -> Outcome:
        chosen, folder = candidates.chosen, candidates.folder
        step = candidates.found[chosen]["step"]
        at_the_end = step == last
        if self.config.keep == "best":
            for path in (folder / CHECKPOINTS).glob("checkpoint-*"):
                if at_the_end or path.name != f"checkpoint-{step}":
                    shutil.rmtree(path)
            if at_the_end:
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        model = RUN if at_the_end else f"{RUN}/{CHECKPOINTS}/checkpoint-{step}"
        assert candidates.evaluation is not None
        keep_evaluation(candidates.evaluation, attempt.folder / model, f"trial {attempt.number}")
        return Outcome(
            state="pruned" if candidates.pruned else "finished",
            standing=candidates.standings[chosen],
            why=candidates.pruned,
            record={
                "candidates": [{**one, "measures": finite(one["measures"])} for one in candidates.found],
                "best": chosen,
                "step": step,
                "steps": last,
                "model": model,
                "measures": finite(candidates.found[chosen]["measures"]),
            },
        )


def keep_evaluation(evaluation: Evaluation, model: Path, label: str) -> None:
    """Save what was measured of a model where a report looks for it, without texts of the data."""
    folder = records_folder(model)
    folder.mkdir(parents=True, exist_ok=True)
    replace(evaluation, label=label).with_texts("drop").save(folder / EVALUATION)
