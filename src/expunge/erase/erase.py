"""A request for erasure, from the data to the record: one call that says what it does, and goes on where it stopped."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.attack.attack import DEFAULT
from expunge.attack.attack import chosen as chosen_attacks
from expunge.core.checks import ExpungeError, path_of, require_at_least, require_between, require_positive
from expunge.core.lock import locked
from expunge.core.manifest import Manifest, jsonable
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template
from expunge.erase.candidates import MULTIPLES, USUAL, chosen
from expunge.erase.choice import kept
from expunge.erase.looked_at import findings
from expunge.erase.models import Models
from expunge.erase.neighbors import with_neighbors
from expunge.erase.request import MODEL, NEIGHBORS, TRIALS, WRITTEN, Request
from expunge.erase.result import finished
from expunge.erase.trials import PROBABILITY
from expunge.erase.tuning import Tuning
from expunge.experiments._folder import opened
from expunge.experiments._learning_rates import RunLog
from expunge.models.fingerprint import model_fingerprint
from expunge.record.policy import Policy, load_policy
from expunge.record.record import ErasureRecord
from expunge.results.attacked import check_not_nothing

NOTHING = "NOTHING TO ERASE"
"""The verdict where the start model does not know the rows."""


@dataclass(frozen=True)
class Erased:
    """What came of a request."""

    folder: Path
    verdict: str
    """Of the record, or that there was nothing to erase."""
    reasons: tuple[str, ...]
    """Why it is no better one."""
    chosen: str | None
    """The candidate that was kept; None where nothing was unlearned."""
    trials: tuple[Mapping[str, Any], ...] = ()
    """Each learning rate that was tried: candidate, rate, extraction strengths, steps, seconds."""
    findings: tuple[str, ...] = ()
    """What to know of the data."""
    faults: tuple[str, ...] = ()
    """What the report holds against the model, however little leaks: gibberish, repetition, over-unlearning."""
    record: ErasureRecord | None = field(default=None, repr=False)

    @property
    def model(self) -> Path:
        """The unlearned model, with its erasure record."""
        return self.folder / MODEL


def erase(
    model: str | Path,
    corpus: Corpus,
    output_dir: str | Path,
    *,
    request: str = "erasure",
    control: str | Path | None = None,
    candidates: Sequence[str] = USUAL,
    adapter: str | None = None,
    tries: int = 3,
    budget: float = 3600.0,
    rows: int = 48,
    neighbors: int = 0,
    attacks: Sequence[str] = DEFAULT,
    policy: Policy | str | Path = "default",
    ground: str | None = None,
    template: Template | None = None,
    max_length: int = 512,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Erased:
    """Take rows out of a model: measure, tune, attack, keep the best under a policy, and write report and record.

    The start model is measured first; where it does not know the rows, nothing is done. Then the candidates are tried,
    each at several learning rates, until one is at the level of a model that never knew and keeps 95 % of the retain
    set, or half of the budget is spent. The best of each candidate is attacked, the nearest first,
    until one satisfies the policy. What is finished in `output_dir` is not done again, so that the same call goes on.

    Args:
        model: folder or hub id of the start model.
        corpus: holds `forget`, and `retain` unless neighbors are made.
        output_dir: folder for all: `model` with `erasure.json`, its records, `report.html`, `trials.json`.
        request: the name of the request in the controller's files.
        control: retain model, or another model that never saw the rows; None: untaught facts stand for one, and the
            record gives no verdict.
        candidates: ways of unlearning that are tried, in this order; `undo` only where it is named, as it loses what
            stands in neither set.
        adapter: train through it, such as `lora`; None: all weights.
        tries: most learning rates tried for each candidate.
        budget: seconds after which no further trial or attack begins; half of it is for trials.
        rows: rows of each set that a trial is measured on.
        neighbors: retain rows that the start model makes, in addition to those of the corpus.
        attacks: attacks on the best models; a policy asks for some.
        policy: what the verdict asks for: `default`, or a YAML file.
        ground: the legal ground of the request.
        template: how questions are framed.
        max_length: longest row in tokens.
        seed: of everything that is drawn.
        overwrite: begin anew in `output_dir`.
        progress: called with (what, done, total, words).

    Raises:
        ExpungeError: the folder holds something else or another request, an unknown candidate or attack, a corpus
            without a set that is needed, or a model that cannot be loaded.
    """
    require_between("tries", tries, 1, len(MULTIPLES))
    require_positive("budget", budget)
    require_at_least("rows", rows, 2)
    require_at_least("neighbors", neighbors, 0)
    check_not_nothing(control)
    check_sets(corpus, neighbors)
    rules = load_policy(policy)
    chosen_attacks(attacks, rules.settings)
    arms = chosen(candidates)
    models = Models(model, control)
    inputs = {**corpus.fingerprints(), "model": model_fingerprint(models.start)}
    inputs |= {} if models.control is None else {"control": model_fingerprint(models.control)}
    asked: dict[str, Any] = {"candidates": list(arms), "adapter": adapter, "tries": tries, "rows": rows}
    asked |= {"attacks": list(attacks), "policy": rules.as_json(), "control": None if control is None else str(control)}
    asked |= {"neighbors": neighbors, "request": request, "ground": ground, "max_length": max_length}
    asked |= {"template": None if template is None else template.about}
    manifest = Manifest(stage="erase", arguments=jsonable(asked), seed=seed, inputs=inputs)
    place = path_of("output_dir", output_dir)
    framing = {"template": template, "max_length": max_length}
    with locked(place):
        folder = opened(place, manifest, WRITTEN, overwrite=overwrite, resume=True)
        if neighbors:
            file = folder / NEIGHBORS
            corpus = with_neighbors(
                file, models.start, models.tokenizer, corpus, neighbors, template=template, seed=seed, progress=progress
            )
        work = Request(
            folder=folder,
            models=models,
            corpus=corpus,
            arms=arms,
            adapter=adapter,
            tries=tries,
            budget=budget,
            rows=rows,
            attacks=tuple(attacks),
            policy=rules,
            framing=framing,
            seed=seed,
            progress=progress,
            began=time.monotonic() - _spent_before(folder),
        )
        tuning, looked = Tuning(work), findings(corpus)
        known = tuning.baseline[PROBABILITY]
        if known < rules.least_known:
            why = f"the start model does not know the rows: probability {known:.3g}, of {rules.least_known:g} asked for"
            return Erased(folder, NOTHING, (why,), None, findings=looked)
        log = tuning.run()
        name = kept(tuning, log)
        made = finished(work, name, called=request, ground=ground)
        return Erased(
            folder, made.verdict, made.reasons, name, tuple(log.tuning), looked, tuple(made.predicate["faults"]), made
        )


def check_sets(corpus: Corpus, neighbors: int) -> None:
    """Raise for a corpus that lacks a set that a request needs; the run and its dry run both ask this."""
    check_corpus(corpus)
    if "forget" not in corpus or ("retain" not in corpus and not neighbors):
        raise ExpungeError(
            f"a request needs a forget and a retain set; the corpus '{corpus.name}' holds {', '.join(corpus)}. Without "
            "a retain set the start model can make rows: neighbors=40."
        )


def _spent_before(folder: Path) -> float:
    """Seconds of the trials that an interrupted call has finished."""
    return float(sum(row["seconds"] for row in RunLog(folder / TRIALS).tuning))
