"""The embedded default: everything once, on invented authors and a small model trained here.

It takes minutes on two CPU cores.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from expunge.core.cache import cache_path
from expunge.core.checks import ExpungeError, unknown
from expunge.core.manifest import Manifest, fingerprint, versions
from expunge.core.progress import Progress, renamed, under
from expunge.data.corpus import Corpus, load_corpus
from expunge.evaluation.evaluate import evaluate
from expunge.experiments._folder import opened
from expunge.models.load import load_model, load_tokenizer
from expunge.models.tiny import bfloat16_pays, tiny_model, tiny_tokenizer
from expunge.report.html import report
from expunge.results.measures import Evaluation
from expunge.results.places import records_folder
from expunge.training.finetune import finetune
from expunge.training.unlearn import unlearn

LEARNING: Mapping[str, Any] = {"learning_rate": 2e-3, "batch_size": 32, "epochs": 16, "warmup": 2, "schedule": "cosine"}
"""How target and retain model learn the corpus from scratch."""

MEASURED_RETAIN = 96
"""Retained questions that evaluations look at, spread over all authors; each brings six more answers to score."""

COMMON: Mapping[str, Any] = {"batch_size": 8, "epochs": 10, "retain_per_forget": 2, "checkpoint_every": 0}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "grad_ascent": {"learning_rate": 1e-4, "epochs": 5},
    "grad_diff": {"learning_rate": 6e-5},
    "npo": {"learning_rate": 3e-4},
    "simnpo": {"learning_rate": 3e-4, "gamma": 1.0},
}
"""Settings for a model of this size; the defaults of the methods are chosen for models
of a thousand times as many parameters."""


SHOWN = (
    *(
        f"{split}_{name}"
        for split in ("forget", "retain")
        for name in ("probability", "rouge", "extraction_strength", "truth_ratio")
    ),
    "forget_quality",
    "model_utility",
)
"""Measures of the table that is printed; the report shows all."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration made."""

    evaluations: tuple[Evaluation, ...]
    """Start model, retain model, then one per method."""
    report: Path
    folder: Path


def demo(
    folder: str | Path = "expunge-demo",
    *,
    methods: Sequence[str] = tuple(METHODS),
    authors: int = 60,
    seed: int = 0,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Demo:
    """Train a target and a retain model (cached by content), unlearn, evaluate, report.

    Args:
        folder: where the unlearned models, evaluations and the report go.
        methods: unlearning methods to compare.
        authors: invented authors in the corpus, a tenth of whom are to be forgotten.
        seed: of corpus, models and training.
        fresh: train target and retain model anew instead of taking them from the cache.
        overwrite: replace an earlier demonstration in `folder`.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, or a method has no settings for a model of this size.
    """
    for method in methods:
        if method not in METHODS:
            raise unknown("method of the demonstration", method, METHODS)
    corpus = embedded_corpus(authors, seed)
    manifest = Manifest(
        stage="demo",
        arguments={"methods": list(methods), "authors": authors, "learning": dict(LEARNING), "common": dict(COMMON)},
        seed=seed,
        inputs=corpus.fingerprints(),
    )
    folder = opened(
        folder,
        manifest,
        ("report.html", *(f"{method}{end}/" for method in methods for end in ("", "-records"))),
        overwrite=overwrite,
    )
    precision = "bfloat16" if bfloat16_pays() else "float32"
    target = embedded_model(corpus, ("forget", "retain", "world"), "target", precision, seed, fresh, progress)
    retain = embedded_model(corpus, ("retain", "world"), "retain", precision, seed, fresh, progress)
    measured = _Measuring(corpus, load_tokenizer(target), progress)
    start_records, retain_records = records_folder(target), records_folder(retain)
    # The retain model first: the others are compared with its records.
    of_retain = measured(retain, "retain model", retain_records, reference=None)
    of_retain = measured(retain, "retain model", retain_records, reference=retain_records)
    evaluations = [measured(target, "start model", start_records, reference=retain_records), of_retain]
    histories = {}
    for method in methods:
        run = unlearn(
            load_model(target, dtype="float32"),
            measured.tokenizer,
            corpus,
            method=method,
            output_dir=folder / method,
            seed=seed,
            precision=precision,
            progress=progress,
            **{**COMMON, **METHODS[method]},
        )
        histories[method] = run.history
        made = folder / method
        evaluations.append(measured(made, method, records_folder(made), reference=retain_records, start=start_records))
    page = report(
        evaluations,
        folder / "report.html",
        title="expunge demo: invented authors, a small model",
        start="start model",
        retain="retain model",
        histories=histories,
    )
    return Demo(tuple(evaluations), page, folder)


def embedded(
    authors: int = 60, seed: int = 0, *, fresh: bool = False, progress: Progress | None = None
) -> tuple[Corpus, Path, Path]:
    """The embedded default: its corpus, and the folders of its target and retain model, trained where need be."""
    corpus, precision = embedded_corpus(authors, seed), "bfloat16" if bfloat16_pays() else "float32"
    target = embedded_model(corpus, ("forget", "retain", "world"), "target", precision, seed, fresh, progress)
    return corpus, target, embedded_model(corpus, ("retain", "world"), "retain", precision, seed, fresh, progress)


def require_both(model: str | Path | None, corpus: Corpus | None) -> None:
    """Raise for a start model without a corpus, and the other way round."""
    if (model is None) != (corpus is None):
        missing = "the corpus (forget=..., or source= and path=)" if corpus is None else "model=<folder>"
        raise ExpungeError(
            f"a start model and its corpus go together, and one is missing: {missing}. Give both, or neither for the "
            "embedded default."
        )


def embedded_corpus(authors: int, seed: int) -> Corpus:
    """The invented authors, and the part of the retained questions that is measured.

    That part goes under the name that TOFU has for it.
    """
    found = load_corpus("synthetic", authors=authors, forget_authors=max(1, authors // 10), seed=seed)
    every = max(1, len(found["retain"]) // MEASURED_RETAIN)
    return Corpus({**found.splits, "retain_perturbed": found["retain"][::every]}, found.name)


def embedded_model(
    corpus: Corpus,
    splits: tuple[str, ...],
    name: str,
    precision: str,
    seed: int,
    fresh: bool,
    progress: Progress | None,
    *,
    learning: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of a model trained from scratch on these splits, from the cache where its content is known."""
    learning = LEARNING if learning is None else learning
    key = fingerprint(
        {
            "data": {split: corpus.fingerprint(split) for split in corpus},
            "splits": splits,
            "learning": dict(learning),
            "precision": precision,
            "seed": seed,
            "versions": {
                k: v for k, v in versions().items() if k in ("expunge", "torch", "transformers", "tokenizers")
            },
        }
    )
    folder = cache_path("demo", key)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        # Built aside and moved when whole, so that neither a killed nor a second demonstration finds half a model.
        aside = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        tokenizer = _tokenizer(corpus)
        finetune(
            tiny_model(tokenizer, seed=seed),
            tokenizer,
            corpus,
            splits=splits,
            output_dir=aside,
            overwrite=True,
            seed=seed,
            precision=precision,
            checkpoint_every=0,
            progress=renamed(progress, f"train the {name} model"),
            **learning,
        )
        if not folder.exists():
            aside.rename(folder)
    return folder


def _tokenizer(corpus: Corpus) -> PreTrainedTokenizerBase:
    # Both models share the tokenizer of the whole corpus, as a retain model shares that of a pretrained model.
    return tiny_tokenizer(
        f"{e.prompt} {e.completion}" for split in ("forget", "retain", "world") for e in corpus[split]
    )


class _Measuring:
    """Evaluates models of the demonstration alike."""

    def __init__(self, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, progress: Progress | None) -> None:
        self.corpus, self.tokenizer, self.progress = corpus, tokenizer, progress

    def __call__(
        self, model: Path, label: str, records: Path, *, reference: Path | None, start: Path | None = None
    ) -> Evaluation:
        return evaluate(
            load_model(model, dtype="float32"),
            self.tokenizer,
            self.corpus,
            suite="tofu",
            reference=reference,
            start=start,
            output_dir=records,
            overwrite=True,
            label=label,
            progress=under(self.progress, label),
        )
