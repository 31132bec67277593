"""What looks forgotten and comes back: methods, each attacked next to a model that never saw the forget set."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from expunge.attack.attack import DEFAULT, THRESHOLD, attack, chosen
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.format import number
from expunge.core.manifest import Manifest
from expunge.core.progress import Progress, under
from expunge.data.corpus import Corpus
from expunge.evaluation.evaluate import evaluate
from expunge.experiments import Table
from expunge.experiments._demo import COMMON, METHODS, embedded, embedded_corpus, require_both
from expunge.experiments._folder import check_folder, opened
from expunge.experiments._learning_rates import RunLog
from expunge.experiments._shown import over_seeds
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, load_tokenizer
from expunge.report.figures import INK, PALETTE, SHAPES, save_png
from expunge.report.text import words
from expunge.results.attacked import NOTHING, PLAIN, Attacked
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.unlearn import unlearn

RETAIN = "retain_extraction_strength"
CONTROL = "retain model"
FOLDERS: Mapping[str, Any] = {"epochs": 5, "batch_size": 8, "checkpoint_every": 0}
"""Training settings for models of one's own; learning rates are those of the methods."""
ABOVE, KEPT = 0.1, 0.9
"""A method withstands where no attack draws out this much more than of the control, and the retain set is kept."""


@dataclass(frozen=True)
class Attacks:
    """What the experiment gave."""

    rows: Sequence[Mapping[str, Any]]
    """One row a run: method, seed, `retain_extraction_strength`, `leaking` (share of facts that leak in some attack),
    and by attack the mean of the model (`values`) and of the control (`controls`)."""
    start: float
    """Retain extraction strength of the start model."""
    folder: Path

    @cached_property
    def methods(self) -> dict[str, list[Mapping[str, Any]]]:
        """The runs of each method."""
        names = dict.fromkeys(row["method"] for row in self.rows)
        return {name: [row for row in self.rows if row["method"] == name] for name in names}

    @property
    def columns(self) -> tuple[str, ...]:
        """The attacks that gave a value in every run, `plain` first; runs of earlier calls may hold others."""
        first = self.rows[0]["values"] if self.rows else {}
        return tuple(name for name in first if all(name in row["values"] for row in self.rows))

    def mean(self, method: str, column: str) -> float:
        """What an attack drew out of a method's models, over seeds."""
        return statistics.fmean(row["values"][column] for row in self.methods[method])

    def above(self, method: str) -> dict[str, float]:
        """By attack, how much more it drew out of a method's models than of the control, over seeds."""
        return {
            column: statistics.fmean(row["values"][column] - row["controls"][column] for row in self.methods[method])
            for column in self.columns
        }

    def tables(self) -> list[Table]:
        """Attacks as rows, the control and the methods as columns: mean and standard deviation over seeds."""
        controls = {row["seed"]: row["controls"] for row in self.rows}
        rows: list[tuple[str, ...]] = []
        for column in self.columns:
            own = [over_seeds([row["values"][column] for row in of]) for of in self.methods.values()]
            rows.append((column, over_seeds([of[column] for of in controls.values()]), *own))
        for name in ("leaking", RETAIN):
            own = [over_seeds([row[name] for row in of]) for of in self.methods.values()]
            rows.append(("facts leaking somewhere" if name == "leaking" else words(name), "", *own))
        header = ("attack", CONTROL, *self.methods)
        return [Table(header, rows, numeric=range(1, len(header)))]

    def text(self) -> str:
        """Which methods withstand, and what brings back most of each."""
        lines = []
        for method, runs in self.methods.items():
            above = self.above(method)
            worst = max(above, key=lambda name: above[name])
            kept = statistics.fmean(row[RETAIN] for row in runs)
            stands = "withstands" if above[worst] <= ABOVE and kept >= KEPT * self.start else "does not withstand"
            lines.append(
                f"{method} {stands}: at most {number(above[worst])} above the {CONTROL} ({worst}), {number(kept)} of "
                "the retain set kept."
            )
        rule = (
            f"A method withstands where no attack draws out more than {ABOVE} above the {CONTROL}, at {KEPT:.0%} of "
            "the start model's retain extraction strength."
        )
        files = f"table: {self.folder / 'attacks.json'}\ndrawing: {self.folder / 'attacks.png'}"
        return "\n".join([rule, *lines, "", files])


def attacks(
    folder: str | Path = "expunge-attacks",
    *,
    corpus: Corpus | None = None,
    model: str | Path | None = None,
    retain_model: str | Path | None = None,
    methods: Sequence[str] = ("grad_diff", "npo", "simnpo", "wga"),
    attacks: Sequence[str] = DEFAULT,
    attack_settings: Mapping[str, Mapping[str, Any]] | None = None,
    threshold: float = THRESHOLD,
    settings: Mapping[str, Any] | None = None,
    seeds: int = 1,
    authors: int = 60,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Attacks:
    """Unlearn with several methods, attack what comes out, and show what looks forgotten and comes back.

    The retain model is attacked the same way, with the same seeds. Without a model it runs on the embedded default.
    What is finished in `folder` is not run again, so that methods and seeds can be added. Models are not kept.

    Args:
        folder: where `attacks.json`, `attacks.png` and the full results of the attacks go.
        corpus: forget and retain set; None: the embedded default, whose models are trained where need be.
        model: folder of the start model, with a forget and a retain set; None: the embedded default, data and all.
        retain_model: folder of the model that never saw the forget set; needed where `model` is given.
        methods: unlearning methods.
        attacks: which attacks, by name.
        attack_settings: settings of single attacks: `attack_settings.relearn.steps=20`.
        threshold: recovery above the control from which on a fact counts as leaking.
        settings: training settings; those under the name of a method are for that method alone:
            `settings.epochs=5 settings.npo.learning_rate=1e-3`.
        seeds: how often each method is run and attacked: `seed`, `seed + 1`, ...
        authors: invented authors of the embedded default.
        seed: of data and models, and the first one of unlearning and attacks.
        overwrite: replace an earlier experiment in `folder`.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown method or attack, a model without a retain model, a corpus
            without a forget or retain set, or settings that a method or attack refuses. Nothing is written then.
    """
    require_both(model, corpus)
    require_at_least("seeds", seeds, 1)
    if model is not None and retain_model is None:
        raise ExpungeError("the attacks need a control: name a model that never saw the forget set, retain_model=...")
    chosen(attacks, attack_settings or {})
    data = embedded_corpus(authors, seed) if corpus is None else corpus
    for split in ("forget", "retain"):
        if split not in data:
            raise ExpungeError(f"the experiment needs a {split} set; the corpus '{data.name}' holds {', '.join(data)}.")
    common = {**(COMMON if corpus is None else FOLDERS), **(settings or {})}
    options = {name: _options(name, common, methods, embedded=corpus is None) for name in methods}
    manifest = Manifest(
        stage="attacks",
        arguments={"attacks": attack_settings or {}, "threshold": threshold, "authors": authors},
        seed=seed,
        inputs=data.fingerprints()
        | {
            name: model_fingerprint(load_model(of))
            for name, of in (("model", model), ("retain_model", retain_model))
            if of is not None
        },
    )
    check_folder(Path(folder), manifest, ("attacked/",), overwrite=overwrite, resume=True)
    if corpus is None or model is None or retain_model is None:
        data, model, retain_model = embedded(authors, seed, progress=progress)
    start = load_model(model)
    for own in options.values():
        plan_unlearning(start, *split_settings({**own, "seed": seed}), corpus=data)
    folder = opened(folder, manifest, ("attacked/",), overwrite=overwrite, resume=True)
    log, tokenizer = RunLog(folder / "attacks.json"), load_tokenizer(model)

    def attacked(of: Any, label: str, turn: int, **more: Any) -> Attacked:
        return attack(
            of,
            tokenizer,
            data,
            attacks=attacks,
            settings=attack_settings,
            threshold=threshold,
            seed=turn,
            label=label,
            progress=progress,
            **more,
        )

    def kept(of: Any) -> float:
        found = evaluate(of, tokenizer, data, metrics=[RETAIN], progress=progress)[RETAIN].value
        return float("nan") if found is None else found

    if not log.levels:
        log.levels = {"start model": {RETAIN: kept(load_model(model, dtype="float32"))}}
        log.save()
    for turn in range(seed, seed + seeds):
        waiting = [
            name
            for name in methods
            if not any(_same(row, name, turn, options[name]) and {*attacks} <= {*row["attacks"]} for row in log.runs)
        ]
        if not waiting:
            continue
        control = attacked(load_model(retain_model, dtype="float32"), CONTROL, turn, control=NOTHING)
        for done, name in enumerate(waiting):
            if progress:
                progress("attacks on methods", done, len(waiting), f"{name}, seed {turn}")
            here = load_model(model, dtype="float32")
            run = unlearn(here, tokenizer, data, seed=turn, progress=under(progress, name), **options[name])
            found = attacked(run.model, name, turn, control=control)
            found.save(folder / "attacked" / f"{name}-{turn}")
            log.runs = [row for row in log.runs if (row["method"], row["seed"]) != (name, turn)]
            log.runs.append(
                {"method": name, "seed": turn, "attacks": [*attacks], "settings": options[name]}
                | {RETAIN: kept(run.model), "leaking": len(found.leaking) / len(found.questions)}
                | _means(found)
            )
            log.save()
    rows = [row for row in log.runs if row["method"] in methods and row["seed"] in range(seed, seed + seeds)]
    result = Attacks(rows, log.levels["start model"][RETAIN], folder)
    save_png(_drawn(result), folder / "attacks.png")
    return result


def _options(name: str, common: Mapping[str, Any], methods: Sequence[str], *, embedded: bool) -> dict[str, Any]:
    """Settings of a method: those of all, those that the embedded default has for it, and its own."""
    shared = {key: value for key, value in common.items() if key not in methods}
    return {"method": name, **shared, **(METHODS.get(name, {}) if embedded else {}), **common.get(name, {})}


def _same(row: Mapping[str, Any], method: str, seed: int, settings: Mapping[str, Any]) -> bool:
    return (row["method"], row["seed"], row["settings"]) == (method, seed, settings)


def _means(found: Attacked) -> dict[str, dict[str, float]]:
    """Means over the facts that both models have a value for."""
    values: dict[str, float] = {}
    controls: dict[str, float] = {}
    for column in found.columns:
        if column.leak is not None and column.control is not None and column.recovery:
            own = dict(zip(column.leak.facts, column.leak.values, strict=True))
            other = dict(zip(column.control.facts, column.control.values, strict=True))
            values[column.name] = statistics.fmean(own[fact] for fact in column.recovery)
            controls[column.name] = statistics.fmean(other[fact] for fact in column.recovery)
    return {"values": values, "controls": controls}


def _drawn(found: Attacks) -> Figure:
    """A line an attack: what it drew out of the control and of each method."""
    columns = found.columns
    figure = Figure(figsize=(7.5, 1.6 + 0.28 * len(columns)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(columns), 0, -1)
    controls = [statistics.fmean(row["controls"][name] for row in found.rows) for name in columns]
    axes.hlines(places, 0, 1, color=INK, alpha=0.15, linewidth=0.8)
    axes.plot(controls, places, color=INK, marker="|", markersize=12, markeredgewidth=2.5, linestyle="", label=CONTROL)
    for i, method in enumerate(found.methods):
        values = [found.mean(method, name) for name in columns]
        look = {"color": PALETTE[i % len(PALETTE)], "marker": SHAPES[i % len(SHAPES)], "markersize": 6}
        axes.plot(values, places, linestyle="", label=method, **look)  # type: ignore[arg-type]
    axes.set_yticks(places, ["asked as it is" if name == PLAIN else name for name in columns])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of the answers that comes out, mean over facts and seeds")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=min(5, 1 + len(found.methods)), frameon=False, fontsize=9)
    return figure
