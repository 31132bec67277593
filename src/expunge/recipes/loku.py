"""LoKU's experiment: ranks against methods, with and without FILA, beside full-parameter training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError, unknown
from expunge.core.manifest import Manifest
from expunge.core.progress import Progress
from expunge.core.results import Evaluation
from expunge.data.corpus import Corpus
from expunge.evaluation.evaluate import evaluate
from expunge.models.load import load_model, load_tokenizer
from expunge.recipes._folder import opened
from expunge.recipes.demo import embedded
from expunge.report.figures import save_png
from expunge.report.ranks import over_ranks
from expunge.training.unlearn import unlearn

ARMS: Mapping[str, Mapping[str, Any]] = {
    "grad_diff": {"method": "grad_diff", "adapter": "lora"},
    "npo": {"method": "npo", "adapter": "lora"},
    "ihl": {"method": "ihl", "adapter": "lora"},
    "ihl_fila": {"method": "ihl", "adapter": "fila"},
    "ihl_full": {"method": "ihl"},
}
"""What is compared; `ihl_full` trains all weights and has no rank."""

EMBEDDED: Mapping[str, Any] = {"learning_rate": 1e-3, "full_learning_rate": 1e-4, "epochs": 5, "batch_size": 8}
"""Settings for the embedded model, which is a thousand times smaller than those of the papers."""
FOLDERS: Mapping[str, Any] = {"learning_rate": 1e-4, "full_learning_rate": 1e-5, "epochs": 5, "batch_size": 32}
"""Settings for models of one's own, as published for 1 to 8 billion parameters."""

MEASURES = ("forget_quality", "forget_extraction_strength", "retain_extraction_strength", "retain_probability")
UTILITY = "model_utility"


@dataclass(frozen=True)
class Loku:
    """What the experiment gave."""

    evaluations: Mapping[str, Evaluation]
    """By label: `start model`, `retain model`, `ihl_fila r8`, ..."""
    rows: Sequence[Mapping[str, Any]]
    """One row a run: arm, rank, seconds of importance, and the measures."""
    folder: Path


def loku(
    folder: str | Path = "expunge-loku",
    *,
    corpus: Corpus | None = None,
    start: str | Path | None = None,
    retain_model: str | Path | None = None,
    ranks: Sequence[int] = (4, 8, 16, 32),
    arms: Sequence[str] = tuple(ARMS),
    epsilon: float | str = "auto",
    settings: Mapping[str, Any] | None = None,
    measures: Sequence[str] | None = None,
    suite: str = "tofu",
    authors: int = 60,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Loku:
    """Unlearn with every arm at every rank and put forgetting and utility beside the rank.

    Args:
        folder: where runs, `loku.json`, `loku.png` and the records go.
        corpus: forget and retain set; None: the embedded default, whose models are trained where need be.
        start: folder of the model that is to forget; needed with a corpus.
        retain_model: folder of the model that never saw the forget set; without it there is no forget quality.
        ranks: of the adapters.
        arms: names of `ARMS`.
        epsilon: of FILA. The published 1e-5 lies far above the importances of models that know their retain set by
            heart.
        settings: `learning_rate`, `full_learning_rate` and further training settings, over those of `EMBEDDED` or
            `FOLDERS`.
        measures: what is compared; None: extraction strength and probability, forget quality where there is a retain
            model, and on the embedded default the utility.
        suite: where the measures come from.
        authors: invented authors of the embedded default.
        seed: of data, models and training.
        overwrite: replace an earlier experiment in `folder`.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown arm, or a corpus without a model.

    Source: LoKU (OpenReview 1ExfUpmIW4), tables of ranks 4 to 32. Departures: epsilon is scaled to each matrix.
    """
    for arm in arms:
        if arm not in ARMS:
            raise unknown("arm of the experiment", arm, ARMS)
    if (corpus is None) != (start is None):
        raise ExpungeError("a corpus and the start model go together: give both, or neither for the embedded default.")
    given = dict(EMBEDDED if corpus is None else FOLDERS) | dict(settings or {})
    full_rate = given.pop("full_learning_rate")
    arguments = {"ranks": list(ranks), "arms": list(arms), "epsilon": epsilon, "settings": given, "suite": suite}
    folder = opened(folder, Manifest(stage="loku", arguments=arguments, seed=seed), overwrite=overwrite)
    with_utility = corpus is None
    if corpus is None or start is None:
        corpus, start, retain_model = embedded(authors, seed, progress=progress)
    wanted = list(measures or [m for m in MEASURES if retain_model is not None or m != "forget_quality"])
    if measures is None and with_utility:
        wanted.append(UTILITY)
    tokenizer, found = load_tokenizer(start), {}

    def measured(model: Any, label: str, reference: Path | None) -> Evaluation:
        where = folder / "records" / label.replace(" ", "-")
        found[label] = evaluate(
            model,
            tokenizer,
            corpus,
            suite=suite,
            # The retain model's truth ratios are what forget quality compares with.
            metrics=[m if reference or m != "forget_quality" else "forget_truth_ratio" for m in wanted],
            reference=reference,
            output_dir=where,
            overwrite=True,
            label=label,
        )
        return found[label]

    reference = None
    if retain_model is not None:
        measured(load_model(retain_model, dtype="float32"), "retain model", None)
        reference = folder / "records" / "retain-model"
    measured(load_model(start, dtype="float32"), "start model", reference)
    plan = [(arm, rank) for arm in arms for rank in (ranks if "adapter" in ARMS[arm] else (None,))]
    rows = []
    for done, (arm, rank) in enumerate(plan):
        label = arm if rank is None else f"{arm} r{rank}"
        if progress:
            progress("loku", done, len(plan), label)
        options = dict(ARMS[arm]) | ({} if rank is None else {"rank": rank})
        options |= {"epsilon": epsilon} if options.get("adapter") == "fila" else {}
        rate = full_rate if rank is None else given["learning_rate"]
        run = unlearn(
            load_model(start, dtype="float32"),
            tokenizer,
            corpus,
            seed=seed,
            **{**given, **options, "learning_rate": rate},
        )
        result = measured(run.model, label, reference)
        kept = ("trained_parameters", "importance_seconds", "share_above_epsilon", "seconds_a_step", "steps")
        rows.append(
            {"arm": arm, "rank": rank}
            | {name: result[name].value for name in wanted if name in result.measures}
            | {name: run.manifest.results[name] for name in kept if name in run.manifest.results}
        )
        (folder / "loku.json").write_text(json.dumps(_story(found, rows, wanted), indent=2) + "\n", encoding="utf-8")
    if progress:
        progress("loku", len(plan), len(plan), "")
    save_png(_drawn(found, rows, wanted), folder / "loku.png")
    return Loku(found, rows, folder)


def _story(found: Mapping[str, Evaluation], rows: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> dict[str, Any]:
    return {"levels": {what: _values(found[what], wanted) for what in _fixed(found)}, "runs": list(rows)}


def _fixed(found: Mapping[str, Evaluation]) -> list[str]:
    return [what for what in ("start model", "retain model") if what in found]


def _values(evaluation: Evaluation, wanted: Sequence[str]) -> dict[str, float | None]:
    return {name: evaluation[name].value for name in wanted if name in evaluation.measures}


def _drawn(found: Mapping[str, Evaluation], rows: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> Any:
    ranked = list(dict.fromkeys(row["arm"] for row in rows if row["rank"] is not None))
    series = {
        name: {arm: {row["rank"]: row.get(name) for row in rows if row["arm"] == arm} for arm in ranked}
        for name in wanted
    }
    levels = {
        name: {what: _values(found[what], wanted).get(name) for what in _fixed(found)}
        | {row["arm"]: row.get(name) for row in rows if row["rank"] is None}
        for name in wanted
    }
    return over_ranks(series, levels)
