"""WAGLE's experiment: does it help to unlearn in chosen weights alone, and does it matter how they are chosen?

Source: Jia et al. 2024, arXiv:2410.17509, tables on TOFU. Departures: refusal training is `idk`, with terms of their
own for refusals and retained answers; masks are drawn anew for each seed; every line of the table may be given the best
learning rate of one grid, found on a seed of its own.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from expunge.core.checks import ExpungeError, require_at_least, require_between, unknown
from expunge.core.format import counted
from expunge.core.manifest import Manifest
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.evaluation.evaluate import evaluate
from expunge.experiments import Table
from expunge.experiments._demo import embedded, require_both
from expunge.experiments._folder import opened
from expunge.experiments._learning_rates import CHOSEN_BY, TUNING_SEED, RunLog, chosen
from expunge.experiments._shown import left_out, shown
from expunge.localize.localize import localize
from expunge.masks.mask import Mask
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, load_tokenizer
from expunge.results.measures import Evaluation
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
    """A cell over its seeds; a column that is not available is None."""

    cell: Cell | None
    """None for the start model."""
    rate: float | None
    """Learning rate of all its runs; None for the start model."""
    means: Mapping[str, float | None]
    deviations: Mapping[str, float | None]
    """Standard deviation over seeds, n - 1 in the denominator; None for a single seed."""
    seeds: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        cell = self.cell or Cell("start model", "", None)
        rate, ratio = ("" if value is None else f"{value:g}" for value in (self.rate, cell.ratio))
        numbers = (shown(self.means[name], self.deviations[name]) for name in COLUMNS)
        return cell.method, cell.arm, ratio, rate, *numbers


@dataclass(frozen=True)
class Wagle:
    """What the experiment gave."""

    lines: Sequence[Line]
    """Start model first."""
    missing: Mapping[str, str]
    """Columns that are not available, and why."""
    folder: Path

    def tables(self) -> list[Table]:
        """The table of the paper, the start model first."""
        header = ("method", "weights", "ratio", "rate", *COLUMNS)
        return [Table(header, [line.cells for line in self.lines], numeric=range(2, len(header)))]

    def text(self) -> str:
        """How to read the table, which columns are empty, and where its numbers are."""
        lines = ["all between 0 and 1, higher is better; UE and UT are the means of the columns before them"]
        if (seeds := max(line.seeds for line in self.lines)) > 1:
            lines.append(f"mean ± standard deviation over {seeds} seeds")
        return "\n".join([*lines, *left_out(self.missing), "", f"table: {self.folder / 'wagle.json'}"])


def wagle(
    folder: str | Path = "expunge-wagle",
    *,
    corpus: Corpus | None = None,
    model: str | Path | None = None,
    methods: Sequence[str] = ("npo",),
    arms: Sequence[str] = ARMS,
    ratios: Sequence[float] = (0.8,),
    seeds: int = 1,
    grid: Sequence[float] = (),
    settings: Mapping[str, Any] | None = None,
    judges: Mapping[str, str] | None = None,
    authors: int = 60,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Wagle:
    """Unlearn in chosen weights, all weights, or a LoRA: efficacy and utility as in WAGLE's tables.

    What is finished in `folder` is not run again. Models are not kept. The default is a small part of the paper's
    table, for minutes on two CPU cores; methods=grad_diff,npo,idk ratios=0.05,0.4,0.8,0.95 seeds=3 is more.

    Example: expunge experiment wagle methods=npo,idk arms=dense,random,wagle ratios=0.4,0.8

    Args:
        folder: where `wagle.json` and the start model's records go.
        corpus: with the splits that the suite `wagle` looks at, such as TOFU's; None: the embedded default, which has
            no real authors.
        model: folder of the start model, with data such as `source=tofu path=... forget=forget10`; None: the embedded
            default.
        methods: of grad_diff, npo and idk.
        arms: all weights (dense), those that an attribution picks (random, magnitude, wanda, wagle), or a LoRA (lora).
        ratios: shares of weights that a mask lets change.
        seeds: how often each cell is repeated: data order, pairing, what random masks and retain samples draw.
        grid: learning rates to choose each cell's from, such as `3e-5,1e-4,3e-4,1e-3`: the one with the largest
            harmonic mean of 1 - forget ES and retain ES (extraction strength), on a seed that no other run has.
        settings: training settings over those of the experiment, for all runs: `settings.epochs=2
            settings.learning_rate=1e-4`.
        judges: models that some measures ask: `judges.embedding=<folder>` for sentence embeddings, as for `evaluate`.
        authors: invented authors of the embedded default.
        overwrite: replace an earlier experiment in `folder`.
        progress: called with (what, done, total, numbers); first with the number of runs and how long they will take.

    Raises:
        ExpungeError: the folder is in use, an unknown method or arm, a ratio out of range, a corpus without a model, a
            grid besides a learning rate.
    """
    plan = cells(methods, arms, ratios)
    require_at_least("seeds", seeds, 1)
    require_at_least("authors", authors, 2)
    require_both(model, corpus)
    common, rates = (EMBEDDED, EMBEDDED_RATES) if corpus is None else (FOLDERS, FOLDERS_RATES)
    if grid and "learning_rate" in (settings or {}):
        raise ExpungeError("settings names the learning rate and grid has it chosen: give one of the two.")
    common = {**COMMON, **common, **(settings or {})}
    about: dict[str, Any] = {"settings": common, "authors": authors if corpus is None else None}
    about |= {"judges": dict(judges)} if judges else {}
    about |= {"grid": list(grid)} if grid else {"rates": rates}
    inputs: dict[str, str] = {}
    if corpus is not None and model is not None:
        inputs = {"model": model_fingerprint(load_model(model)), **corpus.fingerprints()}
    manifest = Manifest(stage="wagle", arguments=about, seed=0, inputs=inputs)
    folder = opened(folder, manifest, overwrite=overwrite, resume=True)
    if corpus is None or model is None:
        found, model, _ = embedded(authors, progress=progress)
        corpus = Corpus({**found.splits, "world_facts": found["world"]}, found.name)
    running = _Running(corpus, model, common, ratios, judges, progress)
    log = RunLog(folder / "wagle.json")
    begun = time.monotonic()
    before = running.measured(load_model(model, dtype="float32"), "start model", folder / "records")
    an_evaluation = time.monotonic() - begun
    log.levels = {"start model": columns(before)}
    lacking = [name for name, value in columns(before).items() if value is None]
    missing = {name: before[(EFFICACY | UTILITY)[name] or "UT"].note for name in lacking}
    known = {str(cell): cell for cell in plan}
    own = {name: common.get("learning_rate", rates[of.method][of.arm == "lora"]) for name, of in known.items()}
    if grid:

        def trial(name: str, rate: float) -> Mapping[str, Any]:
            unlearned, _ = running.unlearned(known[name], TUNING_SEED, rate)
            found = running.measured(unlearned, name, None, suite="default", metrics=CHOSEN_BY)
            return {measure: float(found[measure]) for measure in CHOSEN_BY}

        own = chosen(log, tuple(known), grid, trial, "wagle", progress)
    done = {(row["cell"], row["seed"]) for row in log.runs}
    waiting = [(name, seed) for seed in range(seeds) for name in known if (name, seed) not in done]
    if waiting and progress:
        seconds = len(waiting) * (an_evaluation + running.training_seconds(plan[0], own[str(plan[0])]))
        told = f"{counted(len(waiting), 'run')}, about {math.ceil(seconds / 60)} min"
        progress("wagle", 0, len(waiting), told)
    for number, (name, seed) in enumerate(waiting):
        if progress:
            progress("wagle", number, len(waiting), f"{name}, seed {seed}")
        unlearned, results = running.unlearned(known[name], seed, own[name])
        values = columns(running.measured(unlearned, name))
        log.runs.append({"cell": name, "seed": seed, "rate": own[name], **values, **results})
        log.save()
    if progress and waiting:
        progress("wagle", len(waiting), len(waiting), "")
    lines = [Line(None, None, columns(before), dict.fromkeys(COLUMNS), 1)]
    for name, cell in known.items():
        rows = [row for row in log.runs if row["cell"] == name and row["seed"] < seeds]
        lines.append(averaged(cell, rows))
    return Wagle(lines, missing, folder)


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
        rows[0]["rate"],
        {name: float(np.mean(of)) if had[name] else None for name, of in values.items()},
        {name: float(np.std(of, ddof=1)) if had[name] and len(of) > 1 else None for name, of in values.items()},
        len(rows),
    )


class _Running:
    """Unlearns cells on one start model and corpus, and measures what comes out; weights are scored once a seed."""

    def __init__(
        self,
        corpus: Corpus,
        start: str | Path,
        settings: Mapping[str, Any],
        ratios: Sequence[float],
        judges: Mapping[str, str] | None,
        progress: Progress | None,
    ) -> None:
        self.corpus, self.start, self.settings = corpus, start, settings
        self.judges, self.progress = judges, progress
        self.tokenizer = load_tokenizer(start)
        self.ratios = tuple(ratios)
        self.masks: dict[tuple[str, float, int], Mask] = {}

    def measured(
        self,
        model: Any,
        label: str,
        records: Path | None = None,
        suite: str = "wagle",
        metrics: Sequence[str] | None = None,
    ) -> Evaluation:
        return evaluate(
            model,
            self.tokenizer,
            self.corpus,
            suite=suite,
            metrics=metrics,
            output_dir=records,
            overwrite=True,
            label=label,
            judges=self.judges,
            progress=under(self.progress, label),
        )

    def unlearned(self, cell: Cell, seed: int, rate: float, **more: Any) -> tuple[Any, dict[str, Any]]:
        """The model, and what the run says of itself."""
        options = {**self.settings, "method": cell.method, "seed": seed, "learning_rate": rate, **more}
        rank = options.pop("rank")
        options |= {"adapter": "lora", "rank": rank} if cell.arm == "lora" else {}
        mask = self._mask(cell, seed)
        model = load_model(self.start, dtype="float32")
        run = unlearn(model, self.tokenizer, self.corpus, mask=mask, progress=self.progress, **options)
        return run.model, {name: run.manifest.results[name] for name in ("steps", "seconds_a_step")}

    def training_seconds(self, cell: Cell, rate: float) -> float:
        """Of one run, estimated from three steps with all weights."""
        steps: float = self.settings["epochs"] * len(self.corpus["forget"]) / self.settings["batch_size"]
        epochs = min(3 / steps, 1) * self.settings["epochs"]
        _, results = self.unlearned(replace(cell, arm="dense", ratio=None), 0, rate, epochs=epochs)
        a_step: float = results["seconds_a_step"]
        return steps * a_step

    def _mask(self, cell: Cell, seed: int) -> Mask | None:
        if cell.ratio is None:
            return None
        if (cell.arm, cell.ratio, seed) not in self.masks:
            scores = localize(
                load_model(self.start, dtype="float32"),
                self.tokenizer,
                self.corpus,
                attribution=cell.arm,
                unit="weight",
                modules="linear",
                seed=seed,
                progress=self.progress,
            )
            # Bits of all ratios, of this seed alone: the scores themselves are as large as the model.
            self.masks = {place: mask for place, mask in self.masks.items() if place[2] == seed}
            self.masks |= {(cell.arm, ratio, seed): scores.select(ratio=ratio) for ratio in self.ratios}
        return self.masks[cell.arm, cell.ratio, seed]
