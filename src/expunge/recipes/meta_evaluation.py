"""Which numbers to trust: metrics judged by models of which it is known what they know.

A pool of small models is trained from one start with and without the forget knowledge, in several wordings and at
several learning rates. A faithful metric tells the two groups apart. Then models are unlearned and attacked: a robust
metric does not call forgotten what a short relearning or rounding brings back.

Source: arXiv:2506.12618. Departures: a dozen models of a few million parameters instead of sixty of a billion, all
trained onward from the embedded retain model.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.attacks.quantize import quantize, stability
from expunge.attacks.relearn import relearn, resistance
from expunge.core.cache import cache_path
from expunge.core.checks import ExpungeError, require_at_least, unknown
from expunge.core.judgment import Attacked, Judgment
from expunge.core.manifest import Manifest, fingerprint, jsonable, versions
from expunge.core.progress import Progress
from expunge.core.results import Evaluation
from expunge.data.corpus import Corpus, Example, load_corpus
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.faithfulness import auc_score_interval, faithfulness, separating
from expunge.models.load import load_model, load_tokenizer, model_fingerprint
from expunge.models.tiny import bfloat16_pays
from expunge.recipes.demo import COMMON, METHODS, embedded
from expunge.report.figures import save_png
from expunge.report.trust import drawing
from expunge.training.finetune import finetune
from expunge.training.unlearn import unlearn

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
UTILITY = "model_utility"
KEPT = 0.8
"""An unlearned model counts while it keeps this share of the start model's utility."""
BITS = (4, 8)

KNOWING = ("answers", "paraphrases", "both")
IGNORANT = ("retained", "wrong", "strangers")
TEACHING: Mapping[str, Any] = {"batch_size": 16, "epochs": 10, "warmup": 1, "schedule": "linear", "weight_decay": 0.0}
RATES = (5e-4, 1e-3)
RELEARNING: Mapping[str, Any] = {"learning_rate": 3e-4, "batch_size": 16, "epochs": 1}
"""For models of a few million parameters; the attack's own rate is for a thousand times as many."""


@dataclass(frozen=True)
class MetaEvaluation:
    """What was found about each metric."""

    judgments: tuple[Judgment, ...]
    notes: tuple[str, ...]
    folder: Path


def meta_evaluation(
    folder: str | Path = "expunge-metrics",
    *,
    methods: Sequence[str] = ("grad_diff", "npo", "simnpo"),
    rates: Sequence[float] = RATES,
    seeds: int = 1,
    authors: int = 60,
    seed: int = 0,
    teaching: Mapping[str, Any] | None = None,
    relearning: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MetaEvaluation:
    """Judge the forget metrics on the embedded default: faithfulness over a pool, robustness under two attacks.

    The pool has two groups of three data variants at each rate and seed. Knowing: the forget `answers`, their
    `paraphrases`, or `both`. Ignorant: more of what is `retained`, `wrong` answers to the forget questions, or
    `strangers` (other invented authors). What has been measured once is taken from the cache.

    Args:
        folder: where `metrics.json` and `metrics.png` go.
        methods: those of the demonstration that models are unlearned with.
        rates: learning rates of the pool.
        seeds: how many models of each kind.
        authors: invented authors, a tenth of whom are to be forgotten.
        seed: of everything, the pool's first seed.
        teaching: training settings over `TEACHING`.
        relearning: settings of the attack over `RELEARNING`.
        overwrite: replace an earlier result in `folder`.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown method, or settings out of range.
    """
    require_at_least("seeds", seeds, 1)
    if not rates:
        raise ExpungeError("the pool needs at least one learning rate: rates=1e-3")
    for method in methods:
        if method not in METHODS:
            raise unknown("method of the demonstration", method, METHODS)
    folder = Path(folder)
    _open(folder, overwrite)
    teaching, relearning = {**TEACHING, **(teaching or {})}, {**RELEARNING, **(relearning or {})}
    corpus, target, retain = embedded(authors, seed, progress=progress)
    Manifest(
        stage="meta_evaluation",
        arguments=jsonable(
            {"methods": methods, "rates": rates, "seeds": seeds, "teaching": teaching, "relearning": relearning}
        ),
        seed=seed,
        inputs=corpus.fingerprints(),
    ).save(folder)
    pool = [(kind, rate, seed + n) for kind in (*KNOWING, *IGNORANT) for rate in rates for n in range(seeds)]
    bench = _Bench(
        corpus, load_tokenizer(target), target, retain, teaching, relearning, progress, len(pool) + 3 + 4 * len(methods)
    )
    found = {f"{kind}, rate {rate:g}, seed {n}": bench.member(kind, rate, n) for kind, rate, n in pool}
    knows = [kind in KNOWING for kind, *_ in pool]
    runs = bench.attacked(methods, seed)
    judgments = tuple(_judged(metric, found, knows, runs) for metric in KNOWLEDGE)
    notes = tuple(_notes(judgments, len(found)))
    content = {"judgments": [_plain(judgment) for judgment in judgments], "notes": notes}
    (folder / "metrics.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    save_png(drawing(judgments), folder / "metrics.png")
    return MetaEvaluation(judgments, notes, folder)


@dataclass(frozen=True)
class _Runs:
    """An unlearned model before and after the attacks, beside what it is compared with."""

    start: Evaluation
    retain: Evaluation
    retain_relearned: Evaluation
    states: Mapping[str, Mapping[str, Evaluation]]
    """Method -> `plain`, `relearned`, `4`, `8` -> its evaluation."""


class _Bench:
    """Trains and measures models; what was measured once comes from the cache, and no model is trained for it."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        target: Path,
        retain: Path,
        teaching: Mapping[str, Any],
        relearning: Mapping[str, Any],
        progress: Progress | None,
        total: int,
    ) -> None:
        self.corpus, self.tokenizer, self.target, self.retain = corpus, tokenizer, target, retain
        self.teaching, self.relearning, self.progress = dict(teaching), dict(relearning), progress
        self.precision = "bfloat16" if bfloat16_pays() else "float32"
        self._done, self._total = 0, total
        self._known = {
            "data": corpus.fingerprints(),
            "models": [model_fingerprint(load_model(path)) for path in (target, retain)],
            "precision": self.precision,
            "versions": {k: v for k, v in versions().items() if k in ("expunge", "torch", "transformers")},
        }

    def member(self, kind: str, rate: float, seed: int) -> Evaluation:
        """The evaluation of one model of the pool."""
        shown = tuple(self._shown(kind, seed))
        settings = {**self.teaching, "learning_rate": rate, "seed": seed}

        def make() -> PreTrainedModel:
            run = finetune(
                load_model(self.retain, dtype="float32"),
                self.tokenizer,
                Corpus({"shown": shown}),
                splits=("shown",),
                precision=self.precision,
                checkpoint_every=0,
                progress=self._named(f"teach {kind}, rate {rate:g}, seed {seed}"),
                **settings,
            )
            return run.model

        return self._measured({"shown": [e.key for e in shown], "settings": settings}, make, f"pool: {kind}")

    def attacked(self, methods: Sequence[str], seed: int) -> _Runs:
        """Every method's model before and after the attacks."""
        start = self._measured({"model": "start"}, lambda: load_model(self.target), "start model", utility=True)
        retain = self._measured({"model": "retain"}, lambda: load_model(self.retain), "retain model")
        relearning = {**self.relearning, "seed": seed}
        again = self._measured(
            {"model": "retain", "relearn": relearning},
            lambda: self._relearned(load_model(self.retain, dtype="float32"), "retain model", relearning),
            "retain model, relearned",
        )
        states = {method: dict(self._states(method, relearning, seed)) for method in methods}
        return _Runs(start, retain, again, states)

    def _states(self, method: str, relearning: dict[str, Any], seed: int) -> Iterator[tuple[str, Evaluation]]:
        settings = {**COMMON, **METHODS[method], "seed": seed}

        @cache
        def unlearned() -> PreTrainedModel:
            start, named = load_model(self.target, dtype="float32"), self._named(f"unlearn with {method}")
            settled = {"precision": self.precision, **settings}
            run = unlearn(start, self.tokenizer, self.corpus, method=method, progress=named, **settled)
            assert isinstance(run.model, PreTrainedModel)
            return run.model

        known = {"method": method, "settings": settings}
        yield "plain", self._measured(known, unlearned, method, utility=True)
        for bits in BITS:
            yield (
                str(bits),
                self._measured(
                    {**known, "bits": bits},
                    lambda bits=bits: quantize(copy.deepcopy(unlearned()), bits=bits),  # type: ignore[misc]
                    f"{method}, {bits} bits",
                ),
            )
        yield (
            "relearned",
            self._measured(
                {**known, "relearn": relearning},
                lambda: self._relearned(copy.deepcopy(unlearned()), method, relearning),
                f"{method}, relearned",
            ),
        )

    def _shown(self, kind: str, seed: int) -> list[Example]:
        """What a model of the pool is shown: a third or half of it retained questions, so that it forgets none."""
        forget = self.corpus["forget"]
        every = max(1, len(self.corpus["retain"]) // len(forget))
        retained = list(self.corpus["retain"][::every][: len(forget)])
        others = list(self.corpus["retain"][1::every][: len(forget)])
        paraphrases = [e.asking(str(e.paraphrased), prompt=e.paraphrased_prompt) for e in forget]
        strangers = load_corpus("synthetic", authors=2 * len(forget), forget_authors=len(forget), seed=seed + 1000)
        taught: dict[str, list[Example]] = {
            "answers": list(forget),
            "paraphrases": paraphrases,
            "both": [*forget, *paraphrases],
            "retained": others,
            "wrong": [e.asking(e.perturbed[0]) for e in forget],
            "strangers": list(strangers["forget"][: len(forget)]),
        }
        return [*taught[kind], *retained]

    def _relearned(self, model: PreTrainedModel, what: str, settings: dict[str, Any]) -> PreTrainedModel:
        return relearn(
            model,
            self.tokenizer,
            self.corpus,
            precision=self.precision,
            progress=self._named(f"relearn: {what}"),
            **settings,
        )

    def _measured(
        self, what: Mapping[str, Any], make: Callable[[], PreTrainedModel], label: str, *, utility: bool = False
    ) -> Evaluation:
        """Measures of a model, from records in the cache, else of the model that `make` gives."""
        self._tell(label)
        metrics = [*KNOWLEDGE, *([UTILITY] if utility else [])]
        kept = cache_path("metrics", fingerprint(jsonable({**self._known, "what": what, "metrics": metrics})))
        if not kept.exists():
            aside = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
            evaluate(make(), self.tokenizer, self.corpus, suite="tofu", metrics=metrics, output_dir=aside)
            if not kept.exists():
                aside.rename(kept)
        self._done += 1
        self._tell(label)
        return evaluate(records=kept, suite="tofu", metrics=metrics, label=label)

    def _tell(self, label: str) -> None:
        if self.progress is not None:
            self.progress("models measured", self._done, self._total, label)

    def _named(self, what: str) -> Progress | None:
        tell = self.progress
        return None if tell is None else lambda _, done, total, numbers: tell(what, done, total, numbers)


def _judged(metric: str, pool: Mapping[str, Evaluation], knows: Sequence[bool], runs: _Runs) -> Judgment:
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
        attacked=tuple(_attacked(metric, method, runs, threshold) for method in runs.states),
    )


def _attacked(metric: str, method: str, runs: _Runs, threshold: float) -> Attacked:
    states = runs.states[method]
    before, relearned = float(states["plain"][metric]), float(states["relearned"][metric])
    quantized = {bits: float(states[str(bits)][metric]) for bits in BITS}
    utility, needed = float(states["plain"][UTILITY]), KEPT * float(runs.start[UTILITY])
    reasons = []
    if utility < needed:
        reasons.append(f"utility {utility:.3f} lies below {KEPT} of the start model's ({needed:.3f})")
    if before >= threshold:
        reasons.append(f"by this metric ({before:.3f}, threshold {threshold:.3f}) it still knows")
    return Attacked(
        model=method,
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
        f"{KEPT:.0%} of the utility and lie below the threshold that separates the pool best."
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


def _open(folder: Path, overwrite: bool) -> None:
    if folder.exists() and any(folder.iterdir()):
        ours = (folder / "manifest.json").is_file() and Manifest.load(folder).stage == "meta_evaluation"
        if not overwrite:
            raise ExpungeError(f"{folder} is in use. Choose another output, or replace it: --overwrite")
        if not ours:
            raise ExpungeError(f"--overwrite replaces this experiment only, and {folder} holds another thing.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
