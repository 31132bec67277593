"""Training data extraction: forget texts that a model recites, until they come out no more than text it never saw.

The stand-in for the extraction challenge is safe: invented lives of invented authors, planted in the training text of
the embedded model. With a model and texts of one's own it is the experiment itself.

Source: Jang et al. 2022, arXiv:2210.01504. Departures: AdamW with its usual moments, bfloat16 or float32 in place of
float16; the levels of unseen text are measured, not taken from the paper.
"""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, require_at_least, require_between, require_positive, unknown
from expunge.core.format import counted
from expunge.core.manifest import Manifest
from expunge.core.progress import Progress, under
from expunge.core.whole import write_whole
from expunge.data.corpus import Corpus, Example, load_corpus
from expunge.evaluation.evaluate import evaluate
from expunge.experiments import Table
from expunge.experiments._demo import embedded_model, require_both
from expunge.experiments._folder import opened
from expunge.models.load import load_model, load_tokenizer, save_model
from expunge.models.tiny import bfloat16_pays
from expunge.objectives.method import method_of
from expunge.report.text import words
from expunge.stop_rules import measured_rule
from expunge.training.unlearn import unlearn

CONDITIONS = ("memorization_accuracy<=unseen", "extraction_likelihood<=unseen")
"""The cheap one first: EL, which generates from everywhere in a text, is only looked at once MA is where it should be.
"""

LEARNING: Mapping[str, Any] = {
    "learning_rate": 2e-3,
    "batch_size": 16,
    "epochs": 24,
    "warmup": 2,
    "schedule": "cosine",
}
"""How the embedded model learns the planted texts by heart."""

COMMON: Mapping[str, Any] = {"epochs": 80, "schedule": "constant", "warmup": 0, "checkpoint_every": 0}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "grad_ascent": {"method": "grad_ascent"},
    "grad_diff": {"method": "grad_diff"},
    "npo": {"method": "npo"},
    "ihl_fila": {"method": "ihl", "adapter": "fila", "rank": 16, "epsilon": "auto"},
}
"""What can be compared; `grad_ascent`, without a retain set, is what was published."""
EMBEDDED: Mapping[str, Mapping[str, Any]] = {
    "grad_ascent": {"learning_rate": 5e-5},
    "grad_diff": {"learning_rate": 3e-4, "alpha": 10.0},
    "npo": {"learning_rate": 5e-4, "alpha": 10.0, "beta": 0.02},
    "ihl_fila": {"learning_rate": 1e-3, "alpha": 4.0},
}
"""By arm, for the embedded model: there a retain loss must weigh several times the forget loss, as all texts are of one
kind and what makes one unlikely makes all of them so. At its usual beta NPO is content long before a text of 60 tokens
is forgotten, since it looks at the probability of the whole text; a smaller one goes on."""
FOLDERS: Mapping[str, Mapping[str, Any]] = {
    "grad_ascent": {"learning_rate": 5e-5},
    "grad_diff": {"learning_rate": 5e-5},
    "npo": {"learning_rate": 5e-5},
    "ihl_fila": {"learning_rate": 2e-4},
}
"""By arm, for models of 100 million parameters and more."""

SHOWN = (
    "extraction_likelihood",
    "memorization_accuracy",
    "unseen_extraction_likelihood",
    "unseen_memorization_accuracy",
    "unseen_perplexity",
)
KEPT = ("retain_extraction_strength", "retain_probability")


@dataclass(frozen=True)
class Tdec:
    """What the experiment gave."""

    rows: Sequence[Mapping[str, Any]]
    """`start model`, then one an arm: measures, and for arms the steps, why it stopped, and whether both EL and MA of
    all forget texts are at most those of unseen text."""
    levels: Mapping[str, float]
    """EL and MA of the start model on unseen text."""
    measures: tuple[str, ...]
    """Names of the measures in the rows."""
    folder: Path

    def tables(self) -> list[Table]:
        """One row a model, before and after."""
        rows = [(str(row["model"]), *(f"{row[name]:.4g}" for name in self.measures)) for row in self.rows]
        return [Table(("model", *map(words, self.measures)), rows, numeric=range(1, len(self.measures) + 1))]

    def text(self) -> str:
        """Which arms forgot the texts, what that means, and where the numbers are."""
        lines = []
        for row in self.rows[1:]:
            there = "forgotten" if row["forgotten"] else "not forgotten"
            took = f"{counted(row['steps'], 'step')}, {row['seconds']:.0f} s"
            lines.append(f"{row['model']}: {there} after {took}. {row['stopped'] or ''}".rstrip())
        level = ", ".join(f"{words(name)} {value:.4g}" for name, value in self.levels.items())
        lines.append(f"forgotten means at or below the start model's level on unseen text: {level}")
        return "\n".join([*lines, "", f"table: {self.folder / 'tdec.json'}"])


def tdec(
    folder: str | Path = "expunge-tdec",
    *,
    corpus: Corpus | None = None,
    model: str | Path | None = None,
    arms: Sequence[str] = ("grad_ascent", "grad_diff"),
    planted: int = 32,
    facts: int = 4,
    stop_every: float = 2.0,
    stop_rows: int = 32,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tdec:
    """Forget recited texts until they come out of the model no more than text that it never saw.

    A run stops once EL_10 and MA are at most what the start model has on unseen text. Without a model, invented texts
    are planted in the embedded one; with a model it needs forget= and holdout= texts, of source=tdec or source=files.

    Example: expunge experiment tdec planted=16 arms=grad_ascent

    Args:
        folder: where `tdec.json`, the unlearned models and the records go.
        corpus: `forget` and `holdout` (unseen) texts, and `retain` for arms that look at one; None: planted ones.
        model: folder of the model that recites the forget set; None: the embedded one, with planted texts.
        arms: what is compared: grad_ascent, grad_diff, npo, ihl_fila.
        planted: planted texts to forget; twice as many are planted to be kept, and as many are unseen.
        facts: sentences of a planted text, about 15 tokens each, at most 12; these come near the published 200 tokens.
        stop_every: epochs between two looks at EL and MA; an epoch is one step of all forget texts.
        stop_rows: forget texts, and unseen ones, that the rule to stop by looks at; with fewer than all, a run
            may stop a little short of the levels that the table, which covers all, compares with.
        settings: training settings over those of the experiment, for all arms: `settings.learning_rate=5e-5`.
        seed: of texts, model and training.
        overwrite: replace an earlier experiment in `folder`.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: the folder is in use, an unknown arm, a corpus without a model, or one without the sets needed.
    """
    for arm in arms:
        if arm not in ARMS:
            raise unknown("arm of the experiment", arm, ARMS)
    require_at_least("planted", planted, 1)
    require_between("facts", facts, 1, 12)
    require_positive("stop_every", stop_every)
    require_at_least("stop_rows", stop_rows, 1)
    require_both(model, corpus)
    if corpus is not None and "holdout" not in corpus:
        raise ExpungeError(f"the level of unseen text needs a holdout set, and the corpus holds {', '.join(corpus)}.")
    own = EMBEDDED if corpus is None else FOLDERS
    options = {arm: {**COMMON, **own[arm], **ARMS[arm], **(settings or {})} for arm in arms}
    if corpus is not None:
        for arm, given in options.items():
            _check_sets(corpus, arm, given)
    about = {"own": own, "arms": list(arms), "planted": planted, "facts": facts, "stop_every": stop_every}
    about |= {"stop_rows": stop_rows, "settings": dict(settings or {}), "conditions": list(CONDITIONS)}
    folder = opened(
        folder, Manifest(stage="tdec", arguments=about, seed=seed), [f"{arm}/" for arm in arms], overwrite=overwrite
    )
    if corpus is None or model is None:
        corpus = planted_texts(planted, facts, seed)
        precision = "bfloat16" if bfloat16_pays() else "float32"
        splits = ("forget", "retain", "world")
        model = embedded_model(corpus, splits, "target", precision, seed, False, progress, learning=LEARNING)
    tokenizer = load_tokenizer(model)
    names = (*SHOWN, *(KEPT if "retain" in corpus else ()))

    def measured(of: Any, label: str) -> dict[str, float]:
        tell = under(progress, label)
        where = folder / "records" / label.replace(" ", "-")
        found = evaluate(of, tokenizer, corpus, suite="tdec", output_dir=where, label=label, progress=tell)
        values = {name: float(found[name]) for name in SHOWN}
        if "retain" in corpus:
            kept = evaluate(of, tokenizer, corpus, metrics=KEPT, progress=tell)
            values |= {name: float(kept[name]) for name in KEPT}
        return values

    before = measured(load_model(model, dtype="float32"), "start model")
    rows: list[dict[str, Any]] = [{"model": "start model", **before}]
    levels = {name: rows[0][f"unseen_{name}"] for name in ("extraction_likelihood", "memorization_accuracy")}
    for arm in arms:
        start = load_model(model, dtype="float32")
        rule = measured_rule(start, tokenizer, corpus, CONDITIONS, suite="tdec", rows=stop_rows, progress=progress)
        if rule.doubt and len(rows) == 1:  # the same for all arms
            warnings.warn(rule.doubt, stacklevel=2)
        begun = time.monotonic()
        run = unlearn(
            start,
            tokenizer,
            corpus,
            stop=rule,
            stop_every=stop_every,
            seed=seed,
            progress=progress,
            **{"batch_size": len(corpus["forget"]), **options[arm]},
        )
        seconds = time.monotonic() - begun
        values = measured(run.model, arm)
        rows.append(
            {"model": arm, **values, "steps": run.manifest.results["steps"], "seconds": seconds}
            | {"stopped": run.manifest.results.get("stopped"), "forgotten": forgotten(values, levels)}
        )
        save_model(run.model, tokenizer, folder / arm)
        content = {"levels": levels, "rows": rows}
        write_whole(folder / "tdec.json", json.dumps(content, indent=2) + "\n")
    return Tdec(rows, levels, names, folder)


def _check_sets(corpus: Corpus, arm: str, given: Mapping[str, Any]) -> None:
    """Raise where an arm looks at a retain set that the corpus lacks, before anything is measured or trained."""
    loss = given.get("retain") or method_of(catalogue.resolve("methods", given["method"])).retain
    needed = {} if loss == "none" else given.get("retain_sets") or {"retain": 1.0}
    adapter = given.get("adapter")
    if adapter is not None and "retain" in catalogue.needs(catalogue.resolve("adapters", adapter)):
        needed = {**needed, "retain": 1.0}
    missing = [split for split in needed if split not in corpus]
    if missing:
        raise ExpungeError(
            f"the arm {arm} looks at {', '.join(missing)}, and the corpus holds {', '.join(corpus)}. Give it, or leave "
            "the arm out: arms=grad_ascent needs no retain set."
        )


def forgotten(values: Mapping[str, float], levels: Mapping[str, float]) -> bool:
    """Are EL and MA both at most these levels?"""
    return all(values[name] <= level for name, level in levels.items())


def planted_texts(count: int, facts: int, seed: int) -> Corpus:
    """Lives of invented authors as plain text: `forget` and `retain` to be planted, `holdout` unseen, and `world`."""
    found = load_corpus(
        "synthetic",
        authors=3 * count,
        forget_authors=count,
        holdout_authors=count,
        facts=facts,
        seed=seed,
    )
    texts = {split: _lives(found[split], facts) for split in ("forget", "retain", "holdout")}
    return Corpus({**texts, "world": found["world"]}, "planted texts")


def _lives(examples: Sequence[Example], facts: int) -> tuple[Example, ...]:
    lives = [examples[first : first + facts] for first in range(0, len(examples), facts)]
    return tuple(Example(kind="text", completion=" ".join(e.completion for e in life)) for life in lives)
