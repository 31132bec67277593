"""A request for erasure, from the data to the record: one call that says what it does, and goes on where it stopped."""

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.attack.attack import DEFAULT, attack, untaught
from expunge.attack.attack import chosen as chosen_attacks
from expunge.core.checks import ExpungeError, path_of, require_at_least, require_between, require_positive
from expunge.core.lock import locked
from expunge.core.manifest import Manifest, jsonable
from expunge.core.progress import Progress, under
from expunge.core.whole import write_whole
from expunge.data.corpus import Corpus, check_corpus, load_corpus
from expunge.data.template import Template
from expunge.erase.candidates import CANDIDATES, MULTIPLES, Candidate, chosen
from expunge.erase.looked_at import findings
from expunge.erase.neighbors import neighbors as made_neighbors
from expunge.erase.trials import FORGET, MEASURED, PROBABILITY, distance
from expunge.evaluation.evaluate import evaluate
from expunge.experiments._folder import opened
from expunge.experiments._learning_rates import RunLog
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, load_tokenizer
from expunge.record.policy import Policy, load_policy
from expunge.record.record import ErasureRecord, record
from expunge.record.statement import FILE as RECORD
from expunge.record.statement import read_statement
from expunge.report.compared_models import assign_roles
from expunge.report.faults import faults
from expunge.report.html import report
from expunge.results.attacked import FILE as ATTACKED
from expunge.results.attacked import Attacked, load_attacked
from expunge.results.measures import Evaluation
from expunge.results.places import EVALUATION
from expunge.training.plan import plan_unlearning, split_settings
from expunge.training.trainer import NonFiniteLoss, NonFiniteWeights
from expunge.training.unlearn import unlearn

NOTHING = "NOTHING TO ERASE"
"""The verdict where the start model does not know the rows."""
MODEL, START, CONTROL, TRIED = "model", "start-records", "control-records", "candidates"
REPORT, TRIALS, NEIGHBORS = "report.html", "trials.json", "neighbors.jsonl"
WRITTEN = (*(f"{name}/" for name in (MODEL, f"{MODEL}-records", START, CONTROL, TRIED)), f"{MODEL}.salt")
WRITTEN += (REPORT, TRIALS, NEIGHBORS)
"""What a request leaves in its folder."""
TUNING = 0.5
"""Share of the budget after which no trial begins; the rest is for attacks and evaluation."""


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
    candidates: Sequence[str] = tuple(CANDIDATES),
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
        candidates: ways of unlearning that are tried, in this order.
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
    check_corpus(corpus)
    if "forget" not in corpus or ("retain" not in corpus and not neighbors):
        raise ExpungeError(
            f"a request needs a forget and a retain set; the corpus '{corpus.name}' holds {', '.join(corpus)}. Without "
            "a retain set the start model can make rows: neighbors=40."
        )
    rules = load_policy(policy)
    chosen_attacks(attacks, rules.settings)
    arms = chosen(candidates)
    inputs = {**corpus.fingerprints(), "model": model_fingerprint(load_model(model))}
    inputs |= {} if control is None else {"control": model_fingerprint(load_model(control))}
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
            corpus = _with_neighbors(folder, model, corpus, neighbors, seed=seed, template=template, progress=progress)
        work = _Request(
            folder=folder,
            start=model,
            control=control,
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
        known = work.baseline[PROBABILITY]
        looked = findings(corpus)
        if known < rules.least_known:
            why = f"the start model does not know the rows: probability {known:.3g}, of {rules.least_known:g} asked for"
            return Erased(folder, NOTHING, (why,), None, findings=looked)
        log = work.tuned()
        name = work.kept(log)
        made = work.finished(name, request=request, ground=ground)
        return Erased(folder, made.verdict, made.reasons, name, tuple(log.tuning), looked, work.faults(), made)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A request while it is worked on; its folder holds what is done."""

    folder: Path
    start: str | Path
    control: str | Path | None
    corpus: Corpus
    arms: Mapping[str, Candidate]
    adapter: str | None
    tries: int
    budget: float
    rows: int
    attacks: tuple[str, ...]
    policy: Policy
    framing: Mapping[str, Any]
    seed: int
    progress: Progress | None
    began: float
    """When it would have begun if it had not been interrupted."""

    @cached_property
    def small(self) -> Corpus:
        """The rows that trials are measured on, evenly spaced."""

        def some(name: str) -> tuple[Any, ...]:
            every = -(-len(self.corpus[name]) // self.rows)
            return self.corpus[name][::every]

        return Corpus({name: some(name) for name in ("forget", "retain")}, self.corpus.name)

    @cached_property
    def baseline(self) -> dict[str, float]:
        """What the start model knows of the rows that trials are measured on; from `trials.json` where it is there."""
        if kept := RunLog(self.folder / TRIALS).levels.get("start"):
            return dict(kept)
        return self._measured(load_model(self.start), under(self.progress, "start model"))

    @cached_property
    def never(self) -> dict[str, float]:
        """The same of a model that never knew, the control or untaught facts; no more than the start model knows."""
        if kept := RunLog(self.folder / TRIALS).levels.get("never knew"):
            return dict(kept)
        other = self.start if self.control is None else self.control
        asked = self.small if self.control is not None else untaught(self.small, self.seed)
        found = self._measured(load_model(other), under(self.progress, "control"), corpus=asked)
        return {name: min(found[name], self.baseline[name]) for name in (FORGET, PROBABILITY)}

    def tuned(self) -> RunLog:
        """Try the candidates, until one reaches the target or the time is spent."""
        log = RunLog(self.folder / TRIALS)
        if log.runs:  # the choice is made
            return log
        for name in self.arms:
            self._settle(log, name)
        log.levels = {"start": self.baseline, "never knew": self.never}
        log.save()
        for number, (name, rate) in enumerate(rates := self._rates()):
            if any(self._miss(row) <= 0 for row in log.tuning):
                break
            if any((row["arm"], row["rate"]) == (name, rate) for row in log.tuning):
                continue
            longest = max((row["seconds"] for row in log.tuning), default=0.0)
            if log.tuning and self._spent() + longest > TUNING * self.budget:
                break
            if self.progress:
                self.progress("erase: trials", number, len(rates), f"{name}, rate {rate:g}")
            self._try(log, name, rate)
        return log

    def _rates(self) -> list[tuple[str, float]]:
        """Candidates with their learning rates, in the order in which they are tried."""
        model, found = load_model(self.start), []
        for name, candidate in self.arms.items():
            plan = plan_unlearning(model, *split_settings(self._settings(name)), corpus=self.corpus)
            first = candidate.times_default * float(plan.training.learning_rate or 0)
            found += [(name, float(f"{first * times:.2g}")) for times in MULTIPLES[: self.tries]]
        return found

    def _settings(self, name: str) -> dict[str, Any]:
        return {**self.arms[name].settings_for(len(self.corpus["forget"]), self.adapter), "seed": self.seed}

    def _miss(self, row: Mapping[str, Any]) -> float:
        return math.inf if "failed" in row else distance(row, self.never, self.baseline)

    def _try(self, log: RunLog, name: str, rate: float) -> None:
        """Unlearn and measure; of each candidate the nearest model stays in the folder."""
        began, aside = time.monotonic(), self._aside(name, rate)
        progress = under(self.progress, f"{name}, rate {rate:g}")
        row: dict[str, Any] = {"arm": name, "rate": rate}
        try:
            done = unlearn(
                load_model(self.start),
                load_tokenizer(self.start),
                self.corpus,
                output_dir=aside,
                resume=aside.exists(),
                progress=progress,
                **self.framing,
                **{**self._settings(name), "learning_rate": rate},
            )
            row |= self._measured(done.model, progress) | {"steps": done.manifest.results["steps"]}
        except (NonFiniteLoss, NonFiniteWeights) as error:  # at a rate that is too high; others are tried
            shutil.rmtree(aside, ignore_errors=True)
            row["failed"] = str(error)
        log.tuning.append({**row, "seconds": round(time.monotonic() - began, 1)})
        log.save()
        self._settle(log, name)

    def _aside(self, name: str, rate: float) -> Path:
        return self.folder / TRIED / f"{name}-{rate:g}"

    def _settle(self, log: RunLog, name: str) -> None:
        """Have the nearest model of a candidate in its place, by the trials that are written down, and no other."""
        rows = [row for row in log.tuning if row["arm"] == name]
        nearest = min(rows, key=self._miss, default=None)
        for row in rows:
            aside = self._aside(name, row["rate"])
            if row is nearest and aside.exists():
                for earlier in (self.folder / TRIED / f"{name}-attacked", self.folder / TRIED / name):
                    shutil.rmtree(earlier, ignore_errors=True)
                aside.rename(self.folder / TRIED / name)
            else:
                shutil.rmtree(aside, ignore_errors=True)

    def _nearest(self, log: RunLog, name: str) -> float:
        """By how much the best trial of a candidate missed the target; infinite where there is none."""
        return min((self._miss(row) for row in log.tuning if row["arm"] == name), default=math.inf)

    def kept(self, log: RunLog) -> str:
        """The candidate that is kept, which `trials.json` names once it is found."""
        if not log.runs:
            log.runs = [{"arm": self._attacked(log)}]
            log.save()
        return str(log.runs[0]["arm"])

    def _attacked(self, log: RunLog) -> str:
        """Attack the best model of each candidate, the nearest first; the name of the best of them."""
        missed = {name: self._nearest(log, name) for name in self.arms}
        order = sorted((name for name in missed if missed[name] < math.inf), key=lambda name: missed[name])
        if not order:
            failed = "; ".join(f"{row['arm']} at {row['rate']:g}: {row['failed']}" for row in log.tuning)
            raise ExpungeError(
                f"every trial failed. Try lower rates by hand: expunge unlearn ... learning_rate=. {failed}"
            )
        found: dict[str, Attacked] = {}
        for number, name in enumerate(order):
            if number and self._spent() > self.budget:
                break
            found[name] = self._attack(name)
            if self._satisfies(found[name]) and missed[name] <= 0:
                return name
        return min(found, key=lambda name: (not self._satisfies(found[name]), len(found[name].leaking), missed[name]))

    def _attack(self, name: str) -> Attacked:
        place = self.folder / TRIED / f"{name}-attacked"
        if (place / ATTACKED).is_file():
            return load_attacked(place)
        run = self.folder / TRIED / name
        return attack(
            load_model(run),
            load_tokenizer(run),
            self.corpus,
            attacks=self.attacks,
            control=self._control(),
            settings={name: dict(own) for name, own in self.policy.settings.items() if name in self.attacks},
            threshold=self.policy.largest_threshold,
            seed=self.seed,
            label=name,
            output_dir=place,
            progress=under(self.progress, f"attack {name}"),
            **self.framing,
        )

    def _control(self) -> Any:
        """The control, attacked once for all candidates; None where untaught facts stand for one."""
        if self.control is None:
            return None
        earlier = next((self.folder / TRIED).glob(f"*-attacked/{ATTACKED}"), None)
        if earlier is None:
            return load_model(self.control)
        found = load_attacked(earlier)
        columns = tuple(replace(column, leak=column.control, control=None) for column in found.columns)
        return replace(found, columns=columns, inputs={**found.inputs, "model": found.inputs["control"]})

    def _satisfies(self, found: Attacked) -> bool:
        tested = len(found.worst)
        return bool(tested) and len(found.leaking) / tested <= self.policy.largest_share_leaking

    def finished(self, name: str, *, request: str, ground: str | None) -> ErasureRecord:
        """Put the chosen model in its place, measure it whole, and write report and record."""
        model, records = self.folder / MODEL, self.folder / f"{MODEL}-records"
        if (model / RECORD).is_file() and not (self.folder / TRIED).exists():
            return ErasureRecord(model, read_statement(model), self.folder / f"{MODEL}.salt")
        if not model.exists():
            (self.folder / TRIED / name).rename(model)
        records.mkdir(exist_ok=True)
        before = self._evaluated(load_model(self.start), START, "start model")
        reference = None
        if self.control is not None:
            reference = self.folder / CONTROL
            self._evaluated(load_model(self.control), CONTROL, "control")
        after = self._evaluated(load_model(model), records.name, name, start=self.folder / START, reference=reference)
        place = self.folder / TRIED / f"{name}-attacked"
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            file.replace(records / file.name)
        attacks = load_attacked(records)
        control = [] if reference is None else [Evaluation.load(reference / EVALUATION)]
        report(
            [before, *control, after],
            self.folder / REPORT,
            title=f"Erasure: {request}",
            start=before.label,
            retain=control[0].label if control else None,
            attacked=[attacks],
            overwrite=True,
        )
        made = record(
            model,
            request=request,
            ground=ground,
            corpus=self.corpus,
            evaluation=after,
            start=before,
            attacked=attacks,
            policy=self.policy,
            overwrite=True,
        )
        shutil.rmtree(self.folder / TRIED, ignore_errors=True)
        return made

    def faults(self) -> tuple[str, ...]:
        """What the report holds against the model that was kept."""
        folders = {"start model": START, "control": CONTROL, "unlearned": f"{MODEL}-records"}
        files = {label: self.folder / folder / EVALUATION for label, folder in folders.items()}
        found = [Evaluation.load(file).labeled(label) for label, file in files.items() if file.is_file()]
        control = "control" if self.control is not None else None
        models = assign_roles(found, start="start model", retain=control)
        return faults(models[-1], models)

    def _evaluated(self, model: Any, folder: str, label: str, **compared: Any) -> Evaluation:
        return evaluate(
            model,
            load_tokenizer(self.start),
            self.corpus,
            output_dir=self.folder / folder,
            overwrite=True,
            label=label,
            progress=under(self.progress, label),
            **compared,
            **self.framing,
        )

    def _measured(self, model: Any, progress: Progress | None, *, corpus: Corpus | None = None) -> dict[str, float]:
        found = evaluate(
            model,
            load_tokenizer(self.start),
            corpus or self.small,
            metrics=MEASURED,
            progress=progress,
            **self.framing,
        )
        return {name: float(found[name]) for name in MEASURED}

    def _spent(self) -> float:
        return time.monotonic() - self.began


def _spent_before(folder: Path) -> float:
    """Seconds of the trials that an interrupted call has finished."""
    return float(sum(row["seconds"] for row in RunLog(folder / TRIALS).tuning))


def _with_neighbors(
    folder: Path, model: str | Path, corpus: Corpus, number: int, *, seed: int, template: Any, progress: Progress | None
) -> Corpus:
    """The corpus with retain rows that the start model makes; they are kept in the folder, for a reader, too."""
    file = folder / NEIGHBORS
    if not file.is_file():
        start, tokenizer = load_model(model), load_tokenizer(model)
        made = made_neighbors(start, tokenizer, corpus, number, template=template, seed=seed, progress=progress)
        rows = ({"question": row.prompt, "answer": row.completion, "origin": row.origin} for row in made)
        write_whole(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    retain = corpus["retain"] if "retain" in corpus else ()
    splits = {**corpus.splits, "retain": (*retain, *load_corpus("files", retain=str(file))["retain"])}
    origin = dict(corpus.origin)
    if origin.get("source") == "files":
        origin["retain"] = ",".join(filter(None, (origin.get("retain"), str(file))))
    return replace(corpus, splits=splits, origin=origin if origin.get("source") == "files" else {})
