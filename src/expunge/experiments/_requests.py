"""What the experiments over several requests share: parts of a forget set, one run a request, numbers and drawing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from expunge.core.checks import require_at_least, require_between, unknown
from expunge.core.manifest import Manifest, jsonable
from expunge.core.progress import Progress, renamed, under
from expunge.core.whole import write_whole
from expunge.data.corpus import Corpus, Example
from expunge.evaluation.evaluate import evaluate
from expunge.experiments import Table
from expunge.experiments._demo import COMMON, METHODS, embedded
from expunge.experiments._folder import opened
from expunge.experiments._line_figure import Panel, over
from expunge.experiments._shown import shown
from expunge.models.load import load_model, load_tokenizer
from expunge.models.tiny import bfloat16_pays
from expunge.report.figures import save_png
from expunge.report.text import words
from expunge.training.unlearn import unlearn

MEASURES = ("forget_extraction_strength", "forget_rouge", "retain_extraction_strength", "model_utility")
"""Of the suite `tofu`; the forget measures look at everything that was asked to be forgotten so far."""

Found = dict[int, dict[str, float | None]]
"""Requests, or forget examples -> measures."""
MEASURED = "measured.json"
"""What is finished of a run."""


@dataclass(frozen=True)
class Requests:
    """What was found: by method, the measures after each request or at each size."""

    found: Mapping[str, Found]
    """Method -> requests, or forget examples -> measures."""
    start: Mapping[str, float | None]
    """The same of the start model, on the whole forget set."""
    axis: str
    """What is counted: `requests` or `forget examples`."""
    folder: Path

    def tables(self) -> list[Table]:
        """The start model, then each method after each request or at each size."""
        rows = [("start model", "", *map(shown, self.start.values()))]
        rows += [
            (method, str(x), *map(shown, at.values())) for method, of in self.found.items() for x, at in of.items()
        ]
        return [Table(("model", self.axis, *map(words, self.start)), rows, numeric=range(1, 2 + len(self.start)))]

    def text(self) -> str:
        """Where the numbers are."""
        return f"numbers and drawing: {self.folder}"


@dataclass
class Bench:
    """The embedded default, and how a model of it is unlearned and measured."""

    stage: str
    folder: Path
    methods: Sequence[str]
    requests: int
    authors: int
    seed: int
    overwrite: bool
    progress: Progress | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise unknown("method of the demonstration", method, METHODS)
        require_at_least("authors", self.authors, 2)
        require_between("requests", self.requests, 2, max(2, self.authors // 10))
        about = {"methods": self.methods, "requests": self.requests, "authors": self.authors}
        arguments = jsonable({**about, "settings": {**COMMON, **self.settings}})
        manifest = Manifest(stage=self.stage, arguments=arguments, seed=self.seed)
        opened(self.folder, manifest, (MEASURED,), overwrite=self.overwrite, resume=True)
        self.corpus, self.target, _ = embedded(self.authors, self.seed, progress=self.progress)
        self.tokenizer = load_tokenizer(self.target)
        self.parts = parts(self.corpus["forget"], self.requests)

    def known(self, method: str) -> Found:
        """What an earlier, stopped run has measured of a method."""
        path = self.folder / MEASURED
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {int(x): values for x, values in there.get(method, {}).items()}

    def keep(self, method: str, found: Found) -> None:
        """Put what was measured of a method on disk, so that a run that is stopped goes on from there."""
        path = self.folder / MEASURED
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_whole(path, json.dumps({**there, method: found}, indent=1) + "\n")

    def start(self) -> PreTrainedModel:
        """The start model, anew."""
        return load_model(self.target, dtype="float32")

    def unlearned(self, model: PreTrainedModel, forget: Sequence[Example], method: str, what: str) -> PreTrainedModel:
        """The model after one run that forgets these examples; changed in place."""
        run = unlearn(
            model,
            self.tokenizer,
            self._with(forget),
            method=method,
            seed=self.seed,
            precision="bfloat16" if bfloat16_pays() else "float32",
            progress=renamed(self.progress, what),
            **{**COMMON, **METHODS[method], **self.settings},
        )
        assert isinstance(run.model, PreTrainedModel)
        return run.model

    def measured(self, model: PreTrainedModel, forget: Sequence[Example], what: str) -> dict[str, float | None]:
        """The measures of a model, with these examples as forget set."""
        found = evaluate(
            model,
            self.tokenizer,
            self._with(forget),
            suite="tofu",
            metrics=MEASURES,
            progress=under(self.progress, what),
        )
        return {name: found[name].value for name in MEASURES}

    def written(self, found: Mapping[str, Found], axis: str) -> Requests:
        """The result, with numbers and drawing in the folder."""
        start = self.measured(self.start(), self.corpus["forget"], "start model")
        content = {"over": axis, "start model": start, "methods": found}
        write_whole(self.folder / f"{self.stage}.json", json.dumps(content, indent=1) + "\n")
        panels = [
            Panel(
                name,
                {method: {x: values[name] for x, values in of.items()} for method, of in found.items()},
                {"start model": start[name]},
            )
            for name in MEASURES
        ]
        save_png(over(axis, panels), self.folder / f"{self.stage}.png")
        return Requests(found, start, axis, self.folder)

    def _with(self, forget: Sequence[Example]) -> Corpus:
        return Corpus({**self.corpus.splits, "forget": tuple(forget)}, self.corpus.name)


def parts(examples: Sequence[Example], n: int) -> list[tuple[Example, ...]]:
    """The examples in order, cut into n parts whose sizes differ by one at most."""
    ends = [len(examples) * k // n for k in range(n + 1)]
    return [tuple(examples[a:b]) for a, b in pairwise(ends)]
