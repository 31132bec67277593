"""LoKU's experiment: ranks against methods, with and without FILA, next to full-parameter training.

Source: LoKU (OpenReview 1ExfUpmIW4), tables of ranks 4 to 32. Departures: epsilon is scaled to each matrix; every arm
may be given the best learning rate of one grid, found on a seed of its own.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from expunge.core.checks import ExpungeError, require_at_least, unknown
from expunge.core.format import counted
from expunge.core.manifest import Manifest
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.evaluation.evaluate import evaluate, unmeasurable
from expunge.experiments import Table
from expunge.experiments._demo import embedded, embedded_corpus, require_both
from expunge.experiments._folder import check_folder, opened
from expunge.experiments._learning_rates import CHOSEN_BY, TUNING_SEED, RunLog, chosen
from expunge.experiments._line_figure import Panel, Series, over_ranks
from expunge.experiments._shown import left_out, shown
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, load_tokenizer
from expunge.report.figures import save_png
from expunge.report.text import words
from expunge.results.measures import Evaluation
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.unlearn import unlearn

ARMS: Mapping[str, Mapping[str, Any]] = {
    "grad_diff": {"method": "grad_diff", "adapter": "lora"},
    "npo": {"method": "npo", "adapter": "lora"},
    "ihl": {"method": "ihl", "adapter": "lora"},
    "ihl_fila": {"method": "ihl", "adapter": "fila"},
    "grad_diff_full": {"method": "grad_diff"},
    "npo_full": {"method": "npo"},
    "ihl_full": {"method": "ihl"},
}
"""What is compared; those without an adapter train all weights and have no rank."""

Rates = Mapping[str, float]
EMBEDDED: Mapping[str, Any] = {"epochs": 5, "batch_size": 8, "checkpoint_every": 0}
EMBEDDED_RATES: Rates = {
    "grad_diff": 3e-3,
    "npo": 1e-2,
    "ihl": 1e-2,
    "ihl_fila": 1e-3,
    "grad_diff_full": 1e-4,
    "npo_full": 1e-3,
    "ihl_full": 3e-4,
}
"""For the embedded model, which is a thousand times smaller than those of the papers: the best of a grid from 3e-5 to
3e-2, at rank 8 where there is one (docs/experiments/loku.md)."""
FOLDERS: Mapping[str, Any] = {"epochs": 5, "batch_size": 32, "checkpoint_every": 0}
FOLDERS_RATES: Rates = {arm: 1e-4 if "adapter" in of else 1e-5 for arm, of in ARMS.items()}
"""For models of one's own, as published for 1 to 8 billion parameters."""

QUALITY, RATIO = "forget_quality", "forget_truth_ratio"
MEASURES = (QUALITY, "forget_extraction_strength", "retain_extraction_strength", "retain_probability")
UTILITY = "model_utility"


@dataclass(frozen=True)
class Line:
    """An arm at a rank, over its seeds."""

    arm: str
    rank: int | None
    rate: float
    means: Mapping[str, float]
    deviations: Mapping[str, float | None]
    """Standard deviation over seeds, n - 1 in the denominator; None for a single seed."""

    def __str__(self) -> str:
        """As `ihl_fila r8`."""
        return _named(self.arm, self.rank)


@dataclass(frozen=True)
class Loku:
    """What the experiment gave."""

    levels: Mapping[str, Mapping[str, float | None]]
    """Measures of the start model, and of the retain model where there is one."""
    lines: Sequence[Line]
    rows: Sequence[Mapping[str, Any]]
    """One row a run: arm, rank, seed, rate, seconds of importance, and the measures."""
    tuning: Sequence[Mapping[str, Any]]
    """Runs that the learning rates were chosen by: arm, rate, `score`, and what it is made of."""
    measures: tuple[str, ...]
    missing: Mapping[str, str]
    """Usual measures that the data cannot give, and why."""
    folder: Path

    def tables(self) -> list[Table]:
        """The models that the runs are compared with, then each arm at each rank."""
        rows = [(what, "", *(shown(of.get(name)) for name in self.measures)) for what, of in self.levels.items()]
        for line in self.lines:
            values = (shown(line.means.get(name), line.deviations.get(name)) for name in self.measures)
            rows.append((str(line), f"{line.rate:g}", *values))
        header = ("model", "rate", *map(words, self.measures))
        return [Table(header, rows, numeric=range(1, len(header)))]

    def text(self) -> str:
        """How to read the table, what is missing in it, and where its numbers are."""
        lines = []
        if (seeds := len({row["seed"] for row in self.rows})) > 1:
            lines.append(f"mean ± standard deviation over {seeds} seeds")
        if QUALITY in self.measures:
            lines.append(f"{words(QUALITY)} compares with the retain model, which therefore has none of its own")
        files = (f"table: {self.folder / 'loku.json'}", f"drawing: {self.folder / 'loku.png'}")
        return "\n".join([*lines, *left_out(self.missing), "", *files])


def loku(
    folder: str | Path = "expunge-loku",
    *,
    corpus: Corpus | None = None,
    model: str | Path | None = None,
    retain_model: str | Path | None = None,
    ranks: Sequence[int] = (4, 8, 16, 32),
    arms: Sequence[str] = tuple(ARMS),
    epsilon: float | str = "auto",
    rates: Rates | None = None,
    grid: Sequence[float] = (),
    tuning_rank: int = 8,
    seeds: int = 1,
    settings: Mapping[str, Any] | None = None,
    measures: Sequence[str] | None = None,
    suite: str = "tofu",
    authors: int = 60,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Loku:
    """Compare IHL with FILA, IHL, NPO and GradDiff over adapter ranks, and full-parameter training.

    Every arm is run at every rank. Without a model it runs on the embedded default; with one, it needs forget= and
    retain=. What is finished in `folder` is not run again, so that ranks, arms and seeds can be added.

    Args:
        folder: where `loku.json`, `loku.png` and the records go.
        corpus: forget and retain set; None: the embedded default, whose models are trained where need be.
        model: folder of the start model, with a forget and a retain set; None: the embedded default, data and all.
        retain_model: folder of the model that never saw the forget set; without it there is no forget quality.
        ranks: of the adapters.
        arms: what is compared: grad_diff, npo, ihl, ihl_fila, and grad_diff_full, npo_full, ihl_full, which train all
            weights.
        epsilon: of FILA: a number, or `auto`. The published 1e-5 is far above the importances of models that know
            their retain set by heart.
        rates: learning rates by arm, over those of the experiment: `rates.ihl_fila=3e-4`.
        grid: learning rates to choose each arm's from, such as `1e-4,3e-4,1e-3,3e-3`: the one with the largest harmonic
            mean of 1 - forget ES and retain ES (extraction strength) at `tuning_rank`, on a seed that no other run has.
        tuning_rank: rank of adapters while a rate is chosen.
        seeds: how often each run is repeated: `seed`, `seed + 1`, ...; data order, pairing, first factors, retain
            sample.
        settings: further training settings over those of the experiment, for all arms: `settings.epochs=10
            settings.batch_size=8`.
        measures: what is compared; None: extraction strength, probability, forget quality and utility, where the data
            give them. One that is named must be available.
        suite: where the measures come from.
        authors: invented authors of the embedded default.
        seed: of data and models, and the first one of training.
        overwrite: replace an earlier experiment in `folder`.
        progress: called with (what, done, total, numbers); first with the number of runs and how long they will take.

    Raises:
        ExpungeError: the folder is in use, an unknown arm, rates and a grid at once, a corpus without a model or
            without a retain set, a named measure that is not available, or settings that an arm refuses. Nothing is
            written then.
    """
    for arm in (*arms, *(rates or ())):
        if arm not in ARMS:
            raise unknown("arm of the experiment", arm, ARMS)
    if rates and grid:
        raise ExpungeError("rates names learning rates and grid has them chosen: give one of the two.")
    if "learning_rate" in (settings or {}):
        raise ExpungeError(
            "each arm has a learning rate of its own: rates.<arm>, or a grid, not settings.learning_rate."
        )
    require_both(model, corpus)
    require_at_least("seeds", seeds, 1)
    require_at_least("authors", authors, 2)
    common = {**(EMBEDDED if corpus is None else FOLDERS), **(settings or {})}
    known = {**(EMBEDDED_RATES if corpus is None else FOLDERS_RATES), **(rates or {})}
    data = embedded_corpus(authors, seed) if corpus is None else corpus
    for split in ("forget", "retain"):
        if split not in data:
            raise ExpungeError(
                f"the experiment holds forgetting against what is kept, and the corpus '{data.name}' holds only "
                f"{', '.join(data)}. Name the {split} set: {split}=<file>."
            )
    wanted, missing = _measures(measures, data, suite, retrained=corpus is None or retain_model is not None)
    about: dict[str, Any] = {"settings": common, "epsilon": epsilon, "suite": suite, "measures": wanted}
    about |= {"grid": list(grid), "tuning_rank": tuning_rank} if grid else {"rates": known}
    about |= {"authors": authors} if corpus is None else {}
    inputs = {} if corpus is None else corpus.fingerprints()
    inputs |= {
        name: model_fingerprint(load_model(of))
        for name, of in (("model", model), ("retain_model", retain_model))
        if of is not None
    }
    manifest = Manifest(stage="loku", arguments=about, seed=seed, inputs=inputs)
    check_folder(Path(folder), manifest, overwrite=overwrite, resume=True)
    if corpus is None or model is None:
        corpus, model, retain_model = embedded(authors, seed, progress=progress)
    places = [(arm, rank) for arm in arms for rank in (ranks if "adapter" in ARMS[arm] else (None,))]
    tuned = [(arm, tuning_rank if "adapter" in ARMS[arm] else None) for arm in arms] if grid else []
    running = _Running(corpus, model, common, epsilon, suite, Path(folder) / "records", progress)
    running.check([*places, *tuned])
    folder = opened(folder, manifest, overwrite=overwrite, resume=True)
    log, an_evaluation = RunLog(folder / "loku.json"), None
    if not log.levels:
        begun = time.monotonic()
        log.levels = running.levels(retain_model, wanted)
        an_evaluation = (time.monotonic() - begun) / len(log.levels)
        log.save()
    elif retain_model is not None:
        running.reference = running.records / "retain-model"
    plan = [(arm, rank, seed + turn) for turn in range(seeds) for arm, rank in places]
    ran = {(row["arm"], row["rank"], row["seed"]) for row in log.runs}
    waiting = [planned for planned in plan if planned not in ran]
    trials = len(log.untried(arms, grid))
    if progress and waiting:
        told = counted(len(waiting), "run") + (f" after {trials} to choose rates" if trials else "")
        if an_evaluation is not None:
            arm, rank, turn = waiting[0]
            each = an_evaluation + running.training_seconds(arm, rank, grid[0] if grid else known[arm], turn)
            told += f", about {math.ceil((len(waiting) + trials) * each / 60)} min"
        progress("loku", 0, len(waiting), told)
    if grid:

        def trial(arm: str, rate: float) -> Mapping[str, Any]:
            rank = tuning_rank if "adapter" in ARMS[arm] else None
            return running(arm, rank, rate, seed + TUNING_SEED, CHOSEN_BY, None)

        known = chosen(log, arms, grid, trial, "loku", progress)
    for number, (arm, rank, turn) in enumerate(waiting):
        if progress:
            progress("loku", number, len(waiting), f"{_named(arm, rank)}, seed {turn}")
        label = f"{_named(arm, rank)} seed {turn}"
        log.runs.append(running(arm, rank, known[arm], turn, wanted, label))
        log.save()
    if progress and waiting:
        progress("loku", len(waiting), len(waiting), "")
    rows = [row for row in log.runs if (row["arm"], row["rank"], row["seed"]) in plan]
    lines = averaged(rows, wanted)
    save_png(_drawn(log.levels, lines, wanted), folder / "loku.png")
    return Loku(log.levels, lines, rows, log.tuning, tuple(wanted), missing, folder)


def averaged(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> list[Line]:
    """Mean and standard deviation over seeds of each arm and rank, in the order of the rows."""
    places = dict.fromkeys((row["arm"], row["rank"]) for row in rows)
    lines = []
    for arm, rank in places:
        own = [row for row in rows if (row["arm"], row["rank"]) == (arm, rank)]
        values = {
            name: [row[name] for row in own] for name in measures if all(row.get(name) is not None for row in own)
        }
        deviations = {name: statistics.stdev(of) if len(of) > 1 else None for name, of in values.items()}
        means = {name: statistics.fmean(of) for name, of in values.items()}
        lines.append(Line(arm, rank, own[0]["rate"], means, deviations))
    return lines


def _measures(
    asked_for: Sequence[str] | None, corpus: Corpus, suite: str, *, retrained: bool
) -> tuple[list[str], dict[str, str]]:
    """What is compared, and of the usual measures those that the data cannot give, with the reason.

    Raises:
        ExpungeError: a measure that was asked for by name and is unknown, or is not available.
    """
    names = list(asked_for or (*MEASURES, UTILITY))
    # Forget quality needs the truth ratios of both models, and the retain model's are made here.
    instead = {name: RATIO if name == QUALITY and retrained else name for name in names}
    absent = unmeasurable(corpus, suite=suite, metrics=list(instead.values()))
    missing = {name: absent[of] for name, of in instead.items() if of in absent}
    if not retrained and QUALITY in missing:
        missing[QUALITY] = "Missing: there is no retain model to compare with; name one: retain_model=<folder>."
    if asked_for and missing:
        name, why = next(iter(missing.items()))
        raise ExpungeError(f"{name} is not available. {why}")
    return [name for name in names if name not in missing], missing


def _named(arm: str, rank: int | None) -> str:
    return arm if rank is None else f"{arm} r{rank}"


class _Running:
    """Runs arms on one start model and corpus, and measures what comes out."""

    def __init__(
        self,
        corpus: Corpus,
        start: str | Path,
        settings: Mapping[str, Any],
        epsilon: float | str,
        suite: str,
        records: Path,
        progress: Progress | None,
    ) -> None:
        self.corpus, self.start, self.settings, self.epsilon = corpus, start, settings, epsilon
        self.suite, self.records, self.progress = suite, records, progress
        self.tokenizer = load_tokenizer(start)
        self.reference: Path | None = None

    def levels(self, retain_model: str | Path | None, wanted: Sequence[str]) -> dict[str, dict[str, float | None]]:
        found = {}
        if retain_model is not None:
            # Forget quality compares with the retain model's truth ratios, which have to be there first.
            names = [RATIO if name == QUALITY else name for name in wanted]
            evaluation = self._measured(load_model(retain_model, dtype="float32"), names, "retain model")
            found["retain model"] = _values(evaluation, wanted)
            self.reference = self.records / "retain-model"
        evaluation = self._measured(load_model(self.start, dtype="float32"), wanted, "start model")
        return {"start model": _values(evaluation, wanted), **found}

    def _measured(self, model: Any, wanted: Sequence[str], label: str | None) -> Evaluation:
        named = label or "choose rates"
        return evaluate(
            model,
            self.tokenizer,
            self.corpus,
            suite=self.suite,
            metrics=list(wanted),
            reference=self.reference,
            output_dir=None if label is None else self.records / label.replace(" ", "-"),
            overwrite=True,
            label=named,
            progress=under(self.progress, named),
        )

    def _options(self, arm: str, rank: int | None, rate: float, seed: int) -> dict[str, Any]:
        options = {**self.settings, **ARMS[arm], "learning_rate": rate, "seed": seed}
        options |= {} if rank is None else {"rank": rank}
        return options | ({"epsilon": self.epsilon} if options.get("adapter") == "fila" else {})

    def check(self, places: Sequence[tuple[str, int | None]]) -> None:
        """Raise for settings that the run of an arm at a rank would refuse, before any of them is begun."""
        model = load_model(self.start)
        for arm, rank in places:
            options = self._options(arm, rank, 1e-4, 0)
            about_rows = {name: options.pop(name) for name in ("template", "max_length") if name in options}
            plan_unlearning(model, *split_settings(options), corpus=self.corpus, **about_rows)

    def training_seconds(self, arm: str, rank: int | None, rate: float, seed: int) -> float:
        """Of one run, estimated from three steps and what its adapter looks at before them."""
        steps: float = self.settings["epochs"] * len(self.corpus["forget"]) / self.settings["batch_size"]
        options = self._options(arm, rank, rate, seed)
        options["epochs"] *= min(3 / steps, 1)
        model = load_model(self.start, dtype="float32")
        run = unlearn(model, self.tokenizer, self.corpus, progress=self.progress, **options)
        results = run.manifest.results
        return float(steps * results["seconds_a_step"] + results.get("importance_seconds", 0))

    def __call__(
        self, arm: str, rank: int | None, rate: float, seed: int, wanted: Sequence[str], label: str | None
    ) -> dict[str, Any]:
        options = self._options(arm, rank, rate, seed)
        model = load_model(self.start, dtype="float32")
        run = unlearn(model, self.tokenizer, self.corpus, progress=self.progress, **options)
        kept = ("trained_parameters", "importance_seconds", "share_above_epsilon", "seconds_a_step", "steps")
        return (
            {"arm": arm, "rank": rank, "seed": seed, "rate": rate}
            | _values(self._measured(run.model, wanted, label), wanted)
            | {name: run.manifest.results[name] for name in kept if name in run.manifest.results}
        )


def _values(evaluation: Evaluation, wanted: Sequence[str]) -> dict[str, float | None]:
    return {name: evaluation[name].value for name in wanted if name in evaluation.measures}


def _drawn(levels: Mapping[str, Mapping[str, float | None]], lines: Sequence[Line], wanted: Sequence[str]) -> Figure:
    ranked = dict.fromkeys(line.arm for line in lines if line.rank is not None)

    def over_the_ranks(name: str, which: Callable[[Line], Mapping[str, float | None]]) -> Series:
        return {
            arm: {r: which(line).get(name) for line in lines if line.arm == arm and (r := line.rank)} for arm in ranked
        }

    panels = [
        Panel(
            name,
            over_the_ranks(name, lambda line: line.means),
            {what: of.get(name) for what, of in levels.items()}
            | {line.arm: line.means.get(name) for line in lines if line.rank is None},
            over_the_ranks(name, lambda line: line.deviations),
        )
        for name in wanted
    ]
    return over_ranks(panels, {f"{arm}_full": arm for arm in ranked})
