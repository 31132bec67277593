"""A request while it is worked on: what is asked, its folder, its models, and how they are measured."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.erase.candidates import Candidate
from expunge.erase.models import Model, Models
from expunge.erase.trials import MEASURED
from expunge.evaluation.evaluate import evaluate
from expunge.experiments._learning_rates import RunLog
from expunge.record.policy import Policy
from expunge.results.measures import Evaluation

MODEL, START, CONTROL, TRIED = "model", "start-records", "control-records", "candidates"
REPORT, TRIALS, NEIGHBORS = "report.html", "trials.json", "neighbors.jsonl"
WRITTEN = (*(f"{name}/" for name in (MODEL, f"{MODEL}-records", START, CONTROL, TRIED)), f"{MODEL}.salt")
WRITTEN += (REPORT, TRIALS, NEIGHBORS)
"""What a request leaves in its folder."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request while it is worked on; its folder holds what is done."""

    folder: Path
    models: Models
    corpus: Corpus
    arms: Mapping[str, Candidate]
    adapter: str | None
    tries: int
    budget: float
    rows: int
    attacks: tuple[str, ...]
    policy: Policy
    framing: Mapping[str, Any]
    seed: int
    progress: Progress | None
    began: float
    """When it would have begun if it had not been interrupted."""

    @property
    def log(self) -> RunLog:
        """The trials that are written down."""
        return RunLog(self.folder / TRIALS)

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @cached_property
    def small(self) -> Corpus:
        """The rows that trials are measured on."""
        return Corpus({name: self.corpus[name] for name in ("forget", "retain")}, self.corpus.name).limited(self.rows)

    def settings(self, name: str) -> dict[str, Any]:
        """What a candidate is trained with."""
        return {**self.arms[name].settings_for(len(self.corpus["forget"]), self.adapter), "seed": self.seed}

    def run(self, name: str) -> Path:
        """Where the nearest model of a candidate is."""
        return self.folder / TRIED / name

    def attacked(self, name: str) -> Path:
        """Where what attacks drew out of it is."""
        return self.folder / TRIED / f"{name}-attacked"

    def measured(self, model: Model, progress: Progress | None, *, corpus: Corpus | None = None) -> dict[str, float]:
        """What trials are compared by, of a model on few rows."""
        found = evaluate(
            model,
            self.models.tokenizer,
            corpus or self.small,
            metrics=MEASURED,
            progress=progress,
            **self.framing,
        )
        return {name: float(found[name]) for name in MEASURED}

    def evaluated(self, model: Model, folder: str, label: str, **compared: Any) -> Evaluation:
        """What a model is in the end, on all rows; its records go into a folder of the request."""
        return evaluate(
            model,
            self.models.tokenizer,
            self.corpus,
            output_dir=self.folder / folder,
            overwrite=True,
            label=label,
            progress=under(self.progress, label),
            **compared,
            **self.framing,
        )
