"""Which numbers to trust: metrics judged by models of which it is known what they know.

A pool of small models is trained from one start with and without the forget knowledge, in several wordings and at
several learning rates. A faithful metric separates the two groups. Then models are unlearned and attacked: a robust
metric does not call forgotten what a short relearning or rounding brings back.

Source: arXiv:2506.12618. Departures: 18 models of a few million parameters instead of sixty of a billion, all trained
onward from the embedded retain model.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expunge.core.checks import ExpungeError, require_at_least, unknown
from expunge.core.manifest import Manifest, jsonable
from expunge.core.progress import Progress
from expunge.core.whole import write_whole
from expunge.experiments import Table
from expunge.experiments._demo import METHODS, embedded
from expunge.experiments._folder import opened
from expunge.experiments._metrics.faithfulness import auc_score_interval, faithfulness, separating
from expunge.experiments._metrics.pool import BITS, IGNORANT, KNOWING, UTILITY, Pool, Runs
from expunge.experiments._metrics.quality_figure import drawing
from expunge.experiments._shown import shown
from expunge.report.figures import save_png
from expunge.report.text import interval_text, words
from expunge.results.measures import Evaluation
from expunge.results.metric_quality import Attacked, Judgment
from expunge.results.robustness import resistance, stability

KNOWLEDGE = (
    "forget_extraction_strength",
    "forget_exact_memorization",
    "forget_probability",
    "forget_paraphrased_probability",
    "forget_truth_ratio_prob_mean",
    "forget_rouge",
    "forget_paraphrased_rouge",
    "mia_loss",
    "mia_zlib",
    "mia_min_k",
    "mia_min_k_plus_plus",
)
"""The metrics that are judged, of the suite `tofu`: all of them higher where a model knows more."""
ATTACKS = ("lens", "probe", "latent", "sampling", "prompts")
"""Attacks that change no weights and need no other model, judged as metrics: what each draws out of a model."""
KEPT = 0.8
"""An unlearned model counts while it keeps this share of the start model's utility."""

TEACHING: Mapping[str, Any] = {"batch_size": 16, "epochs": 10, "warmup": 1, "schedule": "linear", "weight_decay": 0.0}
RATES = (3e-4, 5e-4, 1e-3)
STRENGTHS = (0.5, 1.0)
"""Of the learning rate that the demonstration unlearns with: small changes are the ones that rounding undoes."""
RELEARNING: Mapping[str, Any] = {"learning_rate": 3e-4, "batch_size": 16, "epochs": 1}
"""For models of a few million parameters; the attack's own rate is for a thousand times as many."""


@dataclass(frozen=True)
class MetaEvaluation:
    """What was found about each metric."""

    judgments: tuple[Judgment, ...]
    notes: tuple[str, ...]
    folder: Path

    def tables(self) -> list[Table]:
        """One row a metric, the most faithful first."""
        header = ("metric", "faithfulness", "95 %", "R", "Q 4 bits", "Q 8 bits", "robustness", "overall", "models")
        rows = [
            (
                words(one.metric),
                shown(one.faithfulness),
                interval_text(one.interval),
                *map(shown, (one.resistance, one.stability(4), one.stability(8), one.robustness, one.overall)),
                str(len(one.counted)),
            )
            for one in sorted(self.judgments, key=lambda one: -one.faithfulness)
        ]
        return [Table(header, rows, numeric=(1, 3, 4, 5, 6, 7, 8))]

    def text(self) -> str:
        """What the columns mean, and where the numbers are."""
        files = (f"numbers: {self.folder / 'metrics.json'}", f"drawing: {self.folder / 'metrics.png'}")
        return "\n".join([*self.notes, "", *files])


def metrics(
    folder: str | Path = "expunge-metrics",
    *,
    methods: Sequence[str] = ("grad_diff", "npo", "simnpo"),
    rates: Sequence[float] = RATES,
    strengths: Sequence[float] = STRENGTHS,
    attacks: Sequence[str] = ATTACKS,
    seeds: int = 1,
    authors: int = 60,
    seed: int = 0,
    teaching: Mapping[str, Any] | None = None,
    relearning: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MetaEvaluation:
    """Which metrics separate models that know from models that do not, and which can be fooled?

    The forget metrics are judged on the embedded default: faithfulness over a pool, robustness under two attacks. The
    pool has two groups of three data variants at each rate and seed. Knowing: the forget `answers`, their
    `paraphrases`, or `both`. Ignorant: more of what is `retained`, `wrong` answers to the forget questions, or
    `strangers` (other invented authors). What has been measured once is taken from the cache, so a run that was stopped
    goes on when it is called again.

    Args:
        folder: where `metrics.json` and `metrics.png` go.
        methods: those of the demonstration that models are unlearned with.
        rates: learning rates of the pool.
        strengths: factors of each method's learning rate, an unlearned model each.
        attacks: attacks whose value is judged as a metric, too; their largest value over forms, mean over facts.
        seeds: how many models of each kind.
        authors: invented authors, a tenth of whom are to be forgotten.
        seed: of everything, the pool's first seed.
        teaching: training settings of the pool: `teaching.epochs=5`.
        relearning: settings of the relearning attack: `relearning.learning_rate=1e-4 relearning.epochs=2`.
        overwrite: replace an earlier result in `folder` that was made with other settings.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown method, or settings out of range.
    """
    require_at_least("seeds", seeds, 1)
    require_at_least("authors", authors, 2)
    if not rates:
        raise ExpungeError("the pool needs at least one learning rate: rates=1e-3")
    if not strengths or min(strengths) <= 0:
        raise ExpungeError(f"strengths are factors of a learning rate, each above 0: strengths=1; got {strengths}.")
    for method in methods:
        if method not in METHODS:
            raise unknown("method of the demonstration", method, METHODS)
    teaching, relearning = {**TEACHING, **(teaching or {})}, {**RELEARNING, **(relearning or {})}
    settings = {"methods": methods, "rates": rates, "strengths": strengths, "attacks": attacks}
    trained = {"seeds": seeds, "authors": authors, "teaching": teaching, "relearning": relearning}
    arguments = jsonable({**settings, **trained})
    folder = opened(folder, Manifest(stage="metrics", arguments=arguments, seed=seed), overwrite=overwrite, resume=True)
    corpus, target, retain = embedded(authors, seed, progress=progress)
    members = [(kind, rate, seed + n) for kind in (*KNOWING, *IGNORANT) for rate in rates for n in range(seeds)]
    pool = Pool(
        corpus,
        (target, retain),
        metrics=KNOWLEDGE,
        attacks=attacks,
        teaching=teaching,
        relearning=relearning,
        total=len(members) + 3 + 4 * len(methods) * len(strengths),
        progress=progress,
    )
    found = {f"{kind}, rate {rate:g}, seed {n}": pool.member(kind, rate, n) for kind, rate, n in members}
    knows = [kind in KNOWING for kind, *_ in members]
    runs = pool.attacked(methods, strengths, seed)
    judged = (*KNOWLEDGE, *(f"attack_{name}" for name in attacks))
    judgments = tuple(_judged(metric, found, knows, runs) for metric in judged)
    notes = tuple(_notes(judgments, len(found)))
    content = {"judgments": [_plain(judgment) for judgment in judgments], "notes": notes}
    write_whole(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    save_png(drawing(judgments), folder / "metrics.png")
    return MetaEvaluation(judgments, notes, folder)


def _judged(metric: str, pool: Mapping[str, Evaluation], knows: Sequence[bool], runs: Runs) -> Judgment:
    values = {name: float(evaluation[metric]) for name, evaluation in pool.items()}
    knowing = {name: value for (name, value), known in zip(values.items(), knows, strict=True) if known}
    ignorant = {name: value for name, value in values.items() if name not in knowing}
    share = faithfulness(tuple(knowing.values()), tuple(ignorant.values()))
    threshold = separating(tuple(knowing.values()), tuple(ignorant.values()))
    return Judgment(
        metric=metric,
        knowing=knowing,
        ignorant=ignorant,
        faithfulness=share,
        interval=auc_score_interval(share, len(knowing), len(ignorant)),
        threshold=threshold,
        attacked=tuple(_attacked(metric, name, runs, threshold) for name in runs.states),
    )


def _attacked(metric: str, name: str, runs: Runs, threshold: float) -> Attacked:
    states = runs.states[name]
    before, relearned = float(states["plain"][metric]), float(states["relearned"][metric])
    quantized = {bits: float(states[str(bits)][metric]) for bits in BITS}
    utility, needed = float(states["plain"][UTILITY]), KEPT * float(runs.start[UTILITY])
    reasons = []
    if utility < needed:
        reasons.append(f"utility {utility:.3f} is below {KEPT} of the start model's ({needed:.3f})")
    if before >= threshold:
        reasons.append(f"by this metric ({before:.3f}, threshold {threshold:.3f}) it still knows")
    return Attacked(
        model=name,
        before=before,
        relearned=relearned,
        quantized=quantized,
        resistance=resistance((before, relearned), (float(runs.retain[metric]), float(runs.retain_relearned[metric]))),
        stability={bits: stability(before, after) for bits, after in quantized.items()},
        left_out="; ".join(reasons),
    )


def _notes(judgments: Sequence[Judgment], models: int) -> Iterator[str]:
    yield (
        f"Faithfulness: AUC over {models} models that know or do not; 95 % score interval over models (Newcombe), wide "
        "because they are few."
    )
    yield (
        "R: relearning gain of the retain model over that of the unlearned one. Q: value before over value after "
        "rounding to 4 bits (NF4, simulated) or 8. Means over unlearned models that kept "
        f"{KEPT:.0%} of the utility and are below the threshold that separates the pool best."
    )
    without = [judgment.metric for judgment in judgments if not judgment.counted]
    if without:
        yield f"No unlearned model counts for {', '.join(without)}: none is both useful and below the threshold."


def _plain(judgment: Judgment) -> dict[str, Any]:
    return {
        **asdict(judgment),
        "threshold": None if judgment.threshold == float("-inf") else judgment.threshold,
        "resistance": judgment.resistance,
        "stability": {bits: judgment.stability(bits) for bits in BITS},
        "robustness": judgment.robustness,
        "overall": judgment.overall,
    }
