"""WAGLE's experiment: does it help to unlearn in chosen weights alone, and does it matter how they are chosen?

Source: Jia et al. 2024, arXiv:2410.17509, tables on TOFU. Departures: refusal training is `idk`, with terms of their
own for refusals and retained answers; masks are drawn anew for each seed.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from expunge.core.checks import ExpungeError, require_at_least, require_between, unknown
from expunge.core.manifest import Manifest
from expunge.core.mask import Mask
from expunge.core.progress import Progress, under
from expunge.core.results import Evaluation
from expunge.core.scores import Scores
from expunge.data.corpus import Corpus
from expunge.evaluation.evaluate import evaluate
from expunge.localize.localize import localize
from expunge.models.load import load_model, load_tokenizer, model_fingerprint
from expunge.recipes._folder import opened
from expunge.recipes.demo import embedded
from expunge.training.unlearn import unlearn

METHODS = ("grad_diff", "npo", "idk")
MASKED = ("random", "magnitude", "wanda", "wagle")
ARMS = ("dense", "random", "magnitude", "wanda", "lora", "wagle")
"""All weights; those that an attribution picks; or a LoRA. The masked ones are run at every ratio."""
COMMON: Mapping[str, Any] = {"checkpoint_every": 0}
EMBEDDED: Mapping[str, Any] = {"batch_size": 8, "epochs": 10, "retain_per_forget": 2, "rank": 8}
Rates = Mapping[str, tuple[float, float]]
"""By method, of weights and of a LoRA."""
EMBEDDED_RATES: Rates = {
    "grad_diff": (6e-5, 6e-4),
    "npo": (3e-4, 1e-3),
    "idk": (3e-4, 1e-3),
}
"""For a model a thousand times smaller than the paper's."""
FOLDERS: Mapping[str, Any] = {"batch_size": 4, "epochs": 5, "weight_decay": 0.1, "warmup": 0.5, "rank": 8}
FOLDERS_RATES: Rates = {"grad_diff": (7e-6, 1e-4), "npo": (1e-5, 1e-4), "idk": (2e-5, 1e-4)}
"""As published for TOFU and Llama-2-7B-chat; a LoRA's rate is our usual one."""

EFFICACY = {
    "FQ": "UE_forget_quality",
    "MIA": "UE_mia",
    "1-FA": "UE_forget_accuracy",
    "1-RL": "UE_rouge",
    "UE": "UE",
}
UTILITY = {
    "retain acc": "",  # stands in the details of UT alone
    "retain RL": "UT_retain_rouge",
    "authors acc": "UT_real_authors_accuracy",
    "authors RL": "UT_real_authors_rouge",
    "facts acc": "UT_world_facts_accuracy",
    "facts RL": "UT_world_facts_rouge",
    "UT": "UT",
}
COLUMNS = (*EFFICACY, *UTILITY)
"""As in the paper's tables; all in [0, 1], higher is better."""


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    method: str
    arm: str
    ratio: float | None
    """Share of the linear layers' weights that may change; None where there is no mask."""

    def __str__(self) -> str:
        """As `npo wagle 0.8`."""
        return " ".join(str(part) for part in (self.method, self.arm, self.ratio) if part is not None)


@dataclass(frozen=True)
class Line:
    """A cell over its seeds; a column that could not be had is None."""

    cell: Cell | None
    """None for the start model."""
    means: Mapping[str, float | None]
    deviations: Mapping[str, float | None]
    """Standard deviation over seeds, n - 1 in the denominator; None for a single seed."""
    seeds: int


@dataclass(frozen=True)
class Wagle:
    """What the experiment gave."""

    lines: Sequence[Line]
    """Start model first."""
    missing: Mapping[str, str]
    """Columns that could not be had, and why."""
    folder: Path


def wagle(
    folder: str | Path = "expunge-wagle",
    *,
    corpus: Corpus | None = None,
    start: str | Path | None = None,
    methods: Sequence[str] = ("npo",),
    arms: Sequence[str] = ARMS,
    ratios: Sequence[float] = (0.8,),
    seeds: int = 1,
    settings: Mapping[str, Any] | None = None,
    authors: int = 60,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Wagle:
    """Unlearn with every method in every choice of weights, and put efficacy beside utility.

    What is finished in `folder` is not run again. Models are not kept. The default is a small part of the paper's
    table, for minutes on two CPU cores.

    Args:
        folder: where `wagle.json` and the start model's records go.
        corpus: with the splits that the suite `wagle` looks at, such as TOFU's; None: the embedded default, which has
            no real authors.
        start: folder of the model that is to forget; needed with a corpus.
        methods: of `METHODS`.
        arms: of `ARMS`.
        ratios: shares of weights that a mask lets change.
        seeds: how often each cell is repeated: data order, pairing, what random masks and retain samples draw.
        settings: training settings over those of the recipe, for all runs.
        authors: invented authors of the embedded default.
        overwrite: replace an earlier experiment in `folder`.
        progress: called with (what, done, total, numbers); first with the number of runs and how long they will take.

    Raises:
        ExpungeError: the folder is in use, an unknown method or arm, a ratio out of range, a corpus without a model.
    """
    plan = cells(methods, arms, ratios)
    require_at_least("seeds", seeds, 1)
    if (corpus is None) != (start is None):
        raise ExpungeError("a corpus and the start model go together: give both, or neither for the embedded default.")
    common, rates = (EMBEDDED, EMBEDDED_RATES) if corpus is None else (FOLDERS, FOLDERS_RATES)
    common = {**COMMON, **common, **(settings or {})}
    about = {"settings": common, "rates": rates, "authors": authors if corpus is None else None}
    inputs: dict[str, str] = {}
    if corpus is not None and start is not None:
        inputs = {"model": model_fingerprint(load_model(start)), **corpus.fingerprints()}
    manifest = Manifest(stage="wagle", arguments=about, seed=0, inputs=inputs)
    folder = opened(folder, manifest, overwrite=overwrite, goes_on=True)
    if corpus is None or start is None:
        found, start, _ = embedded(authors, progress=progress)
        corpus = Corpus({**found.splits, "world_facts": found["world"]}, found.name)
    running = _Running(corpus, start, common, rates, progress)
    store = folder / "wagle.json"
    rows = json.loads(store.read_text(encoding="utf-8"))["rows"] if store.is_file() else []
    done = {(row["cell"], row["seed"]) for row in rows}
    waiting = [(cell, seed) for seed in range(seeds) for cell in plan if (str(cell), seed) not in done]
    begun = time.monotonic()
    before = running.measured(load_model(start, dtype="float32"), "start model", folder / "records")
    an_evaluation = time.monotonic() - begun
    lacking = [name for name, value in columns(before).items() if value is None]
    missing = {name: before[(EFFICACY | UTILITY)[name] or "UT"].note for name in lacking}
    if waiting and progress:
        seconds = len(waiting) * (an_evaluation + running.training_seconds(waiting[0][0]))
        told = f"{len(waiting)} runs, about {math.ceil(seconds / 60)} min"
        progress("wagle", 0, len(waiting), told)
    for number, (cell, seed) in enumerate(waiting):
        if progress:
            progress("wagle", number, len(waiting), f"{cell}, seed {seed}")
        values, results = running(cell, seed)
        rows.append({"cell": str(cell), "seed": seed, **values, **results})
        content = {"start": columns(before), "missing": missing, "rows": rows}
        store.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if progress and waiting:
        progress("wagle", len(waiting), len(waiting), "")
    first = Line(None, columns(before), dict.fromkeys(COLUMNS), 1)
    own = {str(cell): [row for row in rows if row["cell"] == str(cell) and row["seed"] < seeds] for cell in plan}
    return Wagle([first, *(averaged(cell, own[str(cell)]) for cell in plan)], missing, folder)


def cells(methods: Sequence[str], arms: Sequence[str], ratios: Sequence[float]) -> list[Cell]:
    """All lines of the table, in its order.

    Raises:
        ExpungeError: an unknown method or arm, or a ratio that is not above 0 and below 1.
    """
    for kind, given, known in (("method", methods, METHODS), ("arm", arms, ARMS)):
        for name in given:
            if name not in known:
                raise unknown(f"{kind} of the experiment", name, known)
    for ratio in ratios:
        require_between("ratios", ratio, 0, 1)
    return [
        Cell(method, arm, ratio)
        for method in methods
        for arm in arms
        for ratio in (ratios if arm in MASKED else (None,))
    ]


def columns(evaluation: Evaluation) -> dict[str, float | None]:
    """The columns of the table from an evaluation with the suite `wagle`; all turned so that higher is better."""
    found: dict[str, float | None] = {name: evaluation[of].value for name, of in (EFFICACY | UTILITY).items() if of}
    for name in ("1-FA", "1-RL"):
        value = found[name]
        found[name] = None if value is None else 1 - value
    found["retain acc"] = evaluation["UT"].details.get("retain_accuracy")
    return {name: found[name] for name in COLUMNS}


def averaged(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> Line:
    """Mean and standard deviation of a cell over its seeds."""
    values = {name: [row[name] for row in rows] for name in COLUMNS}
    had = {name: None not in of for name, of in values.items()}
    return Line(
        cell,
        {name: float(np.mean(of)) if had[name] else None for name, of in values.items()},
        {name: float(np.std(of, ddof=1)) if had[name] and len(of) > 1 else None for name, of in values.items()},
        len(rows),
    )


class _Running:
    """Runs cells on one start model and corpus; scores of weights are computed once a seed."""

    def __init__(
        self,
        corpus: Corpus,
        start: str | Path,
        settings: Mapping[str, Any],
        rates: Rates,
        progress: Progress | None,
    ) -> None:
        self.corpus, self.start, self.settings, self.rates = corpus, start, settings, rates
        self.progress = progress
        self.tokenizer = load_tokenizer(start)
        self.scores: dict[tuple[str, int], Scores] = {}

    def measured(self, model: Any, label: str, records: Path | None = None) -> Evaluation:
        return evaluate(
            model,
            self.tokenizer,
            self.corpus,
            suite="wagle",
            output_dir=records,
            overwrite=True,
            label=label,
            progress=under(self.progress, label),
        )

    def options(self, cell: Cell, seed: int) -> dict[str, Any]:
        through = cell.arm == "lora"
        rate = self.rates[cell.method][1 if through else 0]
        given = {"method": cell.method, "seed": seed, "learning_rate": rate, **self.settings}
        rank = given.pop("rank")
        return {**given, "adapter": "lora", "rank": rank} if through else given

    def training_seconds(self, cell: Cell) -> float:
        """Of one run, estimated from three steps with all weights."""
        options = self.options(replace(cell, arm="dense"), 0)
        steps: float = options["epochs"] * len(self.corpus["forget"]) / options["batch_size"]
        trial = {**options, "epochs": min(3 / steps, 1) * options["epochs"]}
        a_step: float = self._unlearned(trial).manifest.results["seconds_a_step"]
        return steps * a_step

    def _unlearned(self, options: Mapping[str, Any], mask: Mask | None = None) -> Any:
        model = load_model(self.start, dtype="float32")
        return unlearn(model, self.tokenizer, self.corpus, mask=mask, progress=self.progress, **options)

    def _mask(self, cell: Cell, seed: int) -> Mask | None:
        if cell.ratio is None:
            return None
        if (cell.arm, seed) not in self.scores:
            self.scores[cell.arm, seed] = localize(
                load_model(self.start, dtype="float32"),
                self.tokenizer,
                self.corpus,
                attribution=cell.arm,
                unit="weight",
                modules="linear",
                seed=seed,
                progress=self.progress,
            )
        return self.scores[cell.arm, seed].select(ratio=cell.ratio)

    def __call__(self, cell: Cell, seed: int) -> tuple[dict[str, float | None], dict[str, Any]]:
        run = self._unlearned(self.options(cell, seed), self._mask(cell, seed))
        results = {name: run.manifest.results[name] for name in ("steps", "seconds_a_step")}
        return columns(self.measured(run.model, str(cell))), results
