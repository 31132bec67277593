"""Methods on a pretrained model that knows real facts: which forget as the retain model does, and keep the rest?

A model is taught a forget and a retain set by heart, and another one the retain set alone. Methods then unlearn the
first; what they should reach is the second. What must stay is the retain set, facts that the model knew before, and
its language.

Source: the forget sets and measures are those of TOFU, arXiv:2401.06121. Departures: utility counts only facts that the
pretrained and the start model get right, since a small model does not know most of those that TOFU asks for.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.format import number
from expunge.core.manifest import Manifest
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus, load_corpus
from expunge.evaluation.evaluate import evaluate
from expunge.experiments import Table
from expunge.experiments._folder import opened
from expunge.experiments._learning_rates import CHOSEN_BY, TUNING_SEED, RunLog, searched
from expunge.experiments._shown import over_seeds
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.models.load import load_model, load_tokenizer
from expunge.report.figures import FORGET, RETAIN, save_png, tradeoff
from expunge.report.text import words
from expunge.results.measures import Direction, Evaluation, Measure
from expunge.results.places import EVALUATION
from expunge.training.finetune import finetune
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.unlearn import unlearn

ARMS = (
    *("grad_diff", "npo", "simnpo", "wga", "js_uniform", "dpo", "rmu", "ihl"),
    *("npo_lora", "ihl_lora", "ihl_fila"),
)
ADAPTERS = ("lora", "fila", "vila")
TEACHING: Mapping[str, Any] = {"learning_rate": 3e-4, "epochs": 8, "batch_size": 8, "warmup": 0.5}
UNLEARNING: Mapping[str, Any] = {"epochs": 5, "batch_size": 8, "checkpoint_every": 0}
KNOWN = 0.9
"""Extraction strength from which on a set counts as known by heart."""
WITHIN, KEPT = 0.02, 0.95
"""A method has forgotten at this distance from the retain model's extraction strength, and kept at this share of the
start model's retain set and of the utility of start or retain model, the smaller one: the facts were chosen by what
the start model answers, and a retrained model loses some of them, too."""

REPHRASED, QUALITY, RATIO = "rephrased_extraction_strength", "forget_quality", "forget_truth_ratio"
RETRAINED = "retain-model"
DRAWN: Mapping[str, Direction] = {FORGET: "lower", RETAIN: "higher"}
FACTS = ("real_authors", "world_facts")
WORST, UTILITY = "forget_worst_query", "utility"


@dataclass(frozen=True)
class Real:
    """What the experiment gave."""

    levels: Mapping[str, Mapping[str, float | None]]
    """Measures of the start model and of the retain model."""
    rows: Sequence[Mapping[str, Any]]
    """One row a run: arm, seed, rate, steps, seconds, and the measures."""
    tuning: Sequence[Mapping[str, Any]]
    """Runs that the learning rates were chosen by."""
    folder: Path

    @property
    def arms(self) -> dict[str, list[Mapping[str, Any]]]:
        """The runs of each arm."""
        return {
            arm: [row for row in self.rows if row["arm"] == arm] for arm in dict.fromkeys(r["arm"] for r in self.rows)
        }

    def tables(self) -> list[Table]:
        """Start and retain model, then each method: mean and standard deviation over seeds."""
        names = list(self.levels["start model"])
        lines = [
            (what, "", *(over_seeds([of.get(name)]) for name in names), "", "") for what, of in self.levels.items()
        ]
        for arm, rows in self.arms.items():
            values = (over_seeds([row.get(name) for row in rows]) for name in names)
            last = (over_seeds([row.get(name) for row in rows]) for name in ("steps", "seconds"))
            lines.append((arm, f"{rows[0]['rate']:g}", *values, *last))
        header = ("model", "rate", *map(words, names), "steps", "seconds")
        return [Table(header, lines, numeric=range(1, len(header)))]

    def text(self) -> str:
        """Which methods reach the target, or what comes nearest, and where the files are."""
        target = (
            f"Target: forget ES within {WITHIN} of the retain model's, and at least {KEPT:.0%} of the start model's "
            "retain ES and of the retain model's utility, in the mean over seeds."
        )
        reached = [arm for arm in self.arms if self._distance(arm) <= 0]
        if reached:
            found = f"Reached by {', '.join(reached)}."
        elif self.arms:
            nearest = min(self.arms, key=self._distance)
            found = f"No method reaches it. Nearest: {nearest}, {number(self._distance(nearest))} away."
        else:
            found = "No method was run."
        files = f"table: {self.folder / 'real.json'}\ndrawing: {self.folder / 'real.png'}"
        return f"{target}\n{found}\n\n{files}"

    def _distance(self, arm: str) -> float:
        """By how much an arm misses the target at most; 0 or less where it is reached."""
        start, retrained, own = self.levels["start model"], self.levels["retain model"], self.arms[arm]

        def mean(name: str) -> float:
            return statistics.fmean(row[name] for row in own)

        return distance({name: mean(name) for name in (FORGET, RETAIN, UTILITY) if name in start}, start, retrained)[0]


def distance(
    row: Mapping[str, Any], start: Mapping[str, float | None], retrained: Mapping[str, float | None]
) -> tuple[float, bool]:
    """By how much a run misses the target, and whether it did too much rather than too little.

    Args:
        row: measures of the run; utility counts where it was measured.
        start: those of the start model, all above 0.
        retrained: those of the retain model, whose utility is the measure where it is below that of the start model.

    Returns:
        The larger of what is missing at forgetting and at keeping, 0 or less where the target is reached; and true
        where too much was lost, or more forgotten than the retain model does not know.
    """
    beyond = row[FORGET] - float(retrained[FORGET] or 0)
    whole = {RETAIN: start[RETAIN]}
    if start.get(UTILITY):
        whole[UTILITY] = min(float(start[UTILITY] or 0), float(retrained.get(UTILITY) or start[UTILITY] or 0))
    lost = max(KEPT - row[name] / float(whole[name] or 1) for name in whole if name in row)
    return max(abs(beyond) - WITHIN, lost), beyond < -WITHIN or lost > beyond - WITHIN


def real(
    folder: str | Path = "expunge-real",
    *,
    corpus: Corpus,
    model: str | Path,
    taught: str | Path | None = None,
    arms: Sequence[str] = ARMS,
    tries: int = 4,
    seeds: int = 3,
    retain_rows: int = 160,
    facts: int = 40,
    text: str | None = None,
    text_rows: int = 40,
    precision: str = "auto",
    teaching: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Real:
    """Teach a pretrained model a forget and a retain set, unlearn with many methods, and compare with a retain model.

    The learning rate of each method is searched on a seed of its own, from the method's default upwards or downwards
    by what comes out, for the nearest to the target. What is finished in `folder` is not run again, so that methods
    and seeds can be added and an interrupted experiment goes on.

    Args:
        folder: where the taught models, `real.json` and `real.png` go.
        corpus: forget and retain set; real authors and world facts for the utility, where it has them. TOFU:
            `source=tofu path=<folder> forget=forget01`.
        model: folder or hub id of the pretrained model.
        taught: folder of an earlier experiment with this model and corpus, whose taught models are used; None: they are
            taught here.
        arms: methods; with `_lora`, `_fila` or `_vila` at the end through an adapter.
        tries: most learning rates tried for each method; 1: its default is taken.
        seeds: how often each method is run with its rate: `seed`, `seed + 1`, ...
        retain_rows: how many retain rows are taught, the first ones.
        facts: how many questions on real authors and world facts are asked of each model, of those that the pretrained
            and the start model answer.
        text: file of plain text whose perplexity is measured, such as WikiText; None: none.
        text_rows: how many of its rows.
        precision: compute precision of training: `auto`, `float32` or `bfloat16`. Weights are float32.
        teaching: training settings of the taught models: `teaching.epochs=12`.
        settings: further training settings of all methods: `settings.epochs=10`.
        seed: of the taught models, and the first one of unlearning.
        overwrite: replace an earlier experiment in `folder`.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown method, settings that a method refuses, a corpus without forget
            or retain set, or a taught model that does not know what it was taught.
    """
    require_at_least("tries", tries, 1)
    require_at_least("seeds", seeds, 1)
    require_at_least("retain_rows", retain_rows, 1)
    for split in ("forget", "retain"):
        if split not in corpus:
            raise ExpungeError(
                f"the experiment needs a {split} set; the corpus '{corpus.name}' holds {', '.join(corpus)}."
            )
    data = _shortened(corpus, retain_rows, text, text_rows)
    learned = {**TEACHING, **(teaching or {}), "seed": seed, "precision": precision}
    common = {**UNLEARNING, **(settings or {}), "precision": precision}
    manifest = Manifest(
        stage="real",
        arguments={
            "teaching": learned,
            "settings": common,
            "facts": facts,
        },
        seed=seed,
        inputs=data.fingerprints() | {"model": model_fingerprint(load_model(model))},
    )
    options = {arm: _options(arm, common) for arm in arms}
    base = load_model(model)
    plans = {
        arm: plan_unlearning(base, *split_settings({**own, "seed": seed}), corpus=data) for arm, own in options.items()
    }
    defaults = {arm: float(plan.training.learning_rate or 0) for arm, plan in plans.items()}
    folder = opened(folder, manifest, ("start/", f"{RETRAINED}/"), overwrite=overwrite, resume=True)
    teacher = _Teacher(Path(taught) if taught is not None else folder, model, data, learned, progress)
    start, retrained = teacher.taught("start", ("forget", "retain")), teacher.taught(RETRAINED, ("retain",))
    log = RunLog(folder / "real.json")
    bench = _Bench(model, start, retrained, data, facts, folder / "records", progress)
    if not log.levels:
        log.levels = bench.levels()
        log.save()
    _check_taught(log.levels)
    best = searched(
        log,
        defaults,
        tries,
        lambda arm, rate: bench.run(options[arm], rate, seed + TUNING_SEED, CHOSEN_BY),
        lambda row: distance(row, log.levels["start model"], log.levels["retain model"]),
        "real",
        progress,
    )
    waiting = [
        (arm, turn)
        for turn in range(seed, seed + seeds)
        for arm in arms
        if (arm, best[arm], turn) not in {(row["arm"], row["rate"], row["seed"]) for row in log.runs}
    ]
    for done, (arm, turn) in enumerate(waiting):
        if progress:
            progress("real", done, len(waiting), f"{arm}, {best[arm]:g}, seed {turn}")
        row = bench.run(options[arm], best[arm], turn, bench.measures)
        log.runs.append({"arm": arm, "seed": turn, "rate": best[arm], **row})
        log.save()
    rows = [row for row in log.runs if row["rate"] == best.get(row["arm"])]
    found = Real(log.levels, rows, log.tuning, folder)
    save_png(tradeoff(_as_evaluations(found), start="start model", retain="retain model"), folder / "real.png")
    return found


def _options(arm: str, common: Mapping[str, Any]) -> dict[str, Any]:
    method, _, adapter = arm.rpartition("_")
    return {**common, "method": method, "adapter": adapter} if adapter in ADAPTERS else {**common, "method": arm}


def _shortened(corpus: Corpus, retain_rows: int, text: str | None, text_rows: int) -> Corpus:
    """The corpus with as many retain rows as are taught; with their variants, where it has them."""
    splits = {name: corpus[name] for name in corpus if name not in ("retain", "retain_perturbed")}
    splits["retain"] = corpus["retain_perturbed" if "retain_perturbed" in corpus else "retain"][:retain_rows]
    if text is not None:
        splits["text"] = load_corpus("files", sets={"text": text})["text"][:text_rows]
    return Corpus(splits, corpus.name)


@dataclass(frozen=True)
class _Teacher:
    """Makes the start and the retain model, once."""

    folder: Path
    model: str | Path
    corpus: Corpus
    settings: Mapping[str, Any]
    progress: Progress | None

    def taught(self, name: str, splits: tuple[str, ...]) -> Path:
        """Folder of the model that was taught these sets; made where it is not there, and gone on with where begun."""
        place = self.folder / name
        finetune(
            load_model(self.model, dtype="float32"),
            load_tokenizer(self.model),
            self.corpus,
            splits=splits,
            output_dir=place,
            resume=place.exists(),
            progress=under(self.progress, f"teach the {name.replace('-model', ' model')}"),
            **self.settings,
        )
        return place


def _check_taught(levels: Mapping[str, Mapping[str, float | None]]) -> None:
    for model, name in (("start model", FORGET), ("start model", RETAIN), ("retain model", RETAIN)):
        value = levels[model][name]
        if value is None or value < KNOWN:
            raise ExpungeError(
                f"the {model} was taught too little: {words(name)} {'none' if value is None else number(value)}, and "
                f"{KNOWN} is needed. Teach longer, in another folder: teaching.epochs=<more>."
            )


@dataclass(frozen=True)
class _Bench:
    """Unlearns on one start model and measures what comes out."""

    pretrained: str | Path
    start: Path
    retrained: Path
    corpus: Corpus
    facts: int
    records: Path
    progress: Progress | None

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """What is measured of every model."""
        asked = [f"{name}.answer_contained" for name in FACTS if name in self.known]
        text = ["text.perplexity"] if "text" in self.corpus else []
        return (FORGET, REPHRASED, RETAIN, "forget_probability", "retain_probability", QUALITY, *asked, *text)

    @cached_property
    def known(self) -> Corpus:
        """The corpus, with those facts alone that the pretrained and the start model get right.

        One model's answers would do if they were certain. Some are lucky, and a model that was chosen by them would
        stand out against any other.
        """
        splits = dict(self.corpus.splits)
        asked = {name: splits.pop(name) for name in FACTS if name in splits}
        if asked and self.facts:
            names = [f"{name}.answer_contained" for name in asked]
            found = [
                self._measured(load_model(place, dtype="float32"), self.corpus, names, f"known-facts/{who}")
                for who, place in (("pretrained-model", self.pretrained), ("start-model", self.start))
            ]
            for name, examples in asked.items():
                right = [one[f"{name}.answer_contained"].per_example or () for one in found]
                share = math.ceil(self.facts * len(examples) / sum(map(len, asked.values())))
                if kept := [e for e, *values in zip(examples, *right, strict=True) if min(values) == 1][:share]:
                    splits[name] = tuple(kept)
        return replace(self.corpus, splits=splits)

    def levels(self) -> dict[str, dict[str, float | None]]:
        """The measures of start and retain model."""
        retrained = self._values(load_model(self.retrained, dtype="float32"), self.measures, RETRAINED)
        start = self._values(load_model(self.start, dtype="float32"), self.measures, "start-model")
        return {"start model": start, "retain model": {name: retrained.get(name) for name in start}}

    def run(self, options: Mapping[str, Any], rate: float, seed: int, measures: Sequence[str]) -> dict[str, Any]:
        """Unlearn once and measure."""
        began = time.monotonic()
        model = load_model(self.start, dtype="float32")
        run = unlearn(
            model,
            load_tokenizer(self.start),
            self.corpus,
            progress=self.progress,
            **{**options, "learning_rate": rate, "seed": seed},
        )
        seconds = time.monotonic() - began
        values = self._values(run.model, measures, None)
        return {**values, "steps": run.manifest.results["steps"], "seconds": round(seconds, 1)}

    def _values(self, model: Any, names: Sequence[str], kept_as: str | None) -> dict[str, float | None]:
        found = self._measured(model, self.known, names, kept_as)
        values = {name: found[name].value for name in names if name in found}
        asked = [name for name in values if name.endswith(".answer_contained")]
        contained = [value for name in asked for value in found[name].per_example or ()]
        values = {name: value for name, value in values.items() if name not in asked}
        if REPHRASED in found and (one := found[FORGET].per_example) and (other := found[REPHRASED].per_example):
            values[WORST] = statistics.fmean(map(max, one, other))
        if contained:
            values[UTILITY] = statistics.fmean(contained)
        return values

    def _measured(self, model: Any, corpus: Corpus, names: Sequence[str], kept_as: str | None) -> Evaluation:
        reference = self.records / RETRAINED
        compared = QUALITY in names and kept_as != RETRAINED
        if kept_as is not None and not compared and (before := self._earlier(model, corpus, names, kept_as)):
            return before
        return evaluate(
            model,
            load_tokenizer(self.start),
            corpus,
            metrics=[RATIO if name == QUALITY and not compared else name for name in names],
            reference=reference if compared else None,
            output_dir=None if kept_as is None else self.records / kept_as,
            overwrite=True,
            progress=self.progress,
        )

    def _earlier(self, model: Any, corpus: Corpus, names: Sequence[str], kept_as: str) -> Evaluation | None:
        """What was measured of this model and data before, such as by a run that was interrupted."""
        path = self.records / kept_as / EVALUATION
        if not path.is_file():
            return None
        found, data = Evaluation.load(path), {f"data.{name}": of for name, of in corpus.fingerprints().items()}
        tokenizer = tokenizer_fingerprint(load_tokenizer(self.start))
        made_of = {"model": model_fingerprint(model), "tokenizer": tokenizer, **data}
        same = all(made_of.get(name) == of for name, of in found.about["inputs"].items())
        return found if same and all(name in found for name in names) else None


def _as_evaluations(found: Real) -> list[Evaluation]:
    """Start model, retain model and the mean of each method, as the drawing takes them."""
    named: list[tuple[str, Sequence[Mapping[str, Any]]]] = [(what, [of]) for what, of in found.levels.items()]
    named += found.arms.items()
    return [
        Evaluation({name: _mean([row[name] for row in rows], better) for name, better in DRAWN.items()}, label=label)
        for label, rows in named
    ]


def _mean(values: Sequence[float], better: Direction) -> Measure:
    return Measure(
        value=statistics.fmean(values),
        n=len(values),
        better=better,
        definition="mean over seeds; the interval is their range",
        source="",
        interval=(min(values), max(values)) if len(values) > 1 else None,
    )
