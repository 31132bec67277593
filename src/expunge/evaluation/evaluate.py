"""Evaluate: a model, or records of one, and a suite in; an Evaluation out."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from expunge.core import catalogue
from expunge.core.checks import ExpungeError
from expunge.core.distributed import barrier, is_main
from expunge.core.manifest import versions
from expunge.core.output import check_output_file, in_use
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus
from expunge.data.template import Template
from expunge.evaluation.collect import collect, identity
from expunge.evaluation.suite import Other, Suite, measure, missing, probes
from expunge.results.foreign_logs import load_records
from expunge.results.measures import Evaluation, Measure, Sample
from expunge.results.records import FILE as RECORDS_FILE
from expunge.results.records import Records

FILE = "evaluation.json"
PARTS = "parts"
"""Folder inside the output in which a collection keeps what it has computed, until the records are saved."""
SAMPLES = {"forget": 8, "retain": 4}


def evaluate(
    model: nn.Module | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    corpus: Corpus | None = None,
    *,
    suite: str = "default",
    records: Records | str | Path | None = None,
    reference: Records | str | Path | None = None,
    start: Records | str | Path | None = None,
    metrics: Sequence[str] | None = None,
    template: Template | None = None,
    max_length: int = 512,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    label: str | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compute a suite's measures for a model, or for records of one without touching a model.

    A measure that is not available (no holdout set, no retain model, ...) is there without a value, and its note says
    what is missing and how to make it.

    Args:
        model: the model to evaluate, with `tokenizer` and `corpus`; or none of the three, and `records`.
        tokenizer: its tokenizer.
        corpus: forget, retain and whatever else the suite looks at.
        suite: `default`, `tofu`, `muse`, `tdec`, `wmdp`, `multiple_choice`, `lume`, `wagle`, `unlearun`, or
            `package.module:function`.
        records: records made earlier, or a path that `load_records` reads (a folder, or another program's log).
        reference: records of the retain model, likewise.
        start: records of the start model, likewise.
        metrics: names of the measures wanted; None: all of the suite. One that is named here must be
            available. A metric that the suite lacks runs by its name on one set: `repetition` (on the forget set),
            `retain.repetition`, `package.module:function`.
        template: how questions are framed.
        max_length: longest row in tokens.
        output_dir: folder for the records and `evaluation.json`. Records of the same content that are there (weights,
            tokenizer, data, settings, probes) are used instead of the model.
        overwrite: replace records of other content in `output_dir`.
        label: what to call the model in tables.
        batch_size: rows computed at once; None: found by a budget of tokens.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: neither or both of model and records, an unknown suite or measure, a named measure that is not
            available, or an `output_dir` in use.
    """
    retain_model, start_model = _opened(reference), _opened(start)
    if records is not None:
        if model is not None or tokenizer is not None or corpus is not None:
            raise ExpungeError("evaluate takes either a model with tokenizer and corpus, or records; both were given.")
        held = _opened(records)
        assert held is not None
        chosen = planned(held, suite=suite, metrics=metrics, reference=retain_model, start=start_model)
        if output_dir is not None:
            check_output_file(Path(output_dir) / FILE, overwrite=overwrite)
    else:
        if model is None or tokenizer is None or corpus is None:
            raise ExpungeError("evaluate needs a model with its tokenizer and a corpus, or records of a model.")
        chosen = planned(corpus, suite=suite, metrics=metrics, reference=retain_model, start=start_model)
        wanted, absent = probes(chosen, corpus, retain_model, start_model)
        made = identity(model, tokenizer, corpus, wanted, template=template, max_length=max_length)
        found = (
            None
            if output_dir is None
            else _reusable(Path(output_dir), made.inputs, made.arguments, overwrite=overwrite)
        )
        if found is None:
            found = collect(
                model,
                tokenizer,
                corpus,
                wanted,
                template=template,
                max_length=max_length,
                batch_size=batch_size,
                parts=None if output_dir is None else Path(output_dir) / PARTS,
                progress=progress,
            )
            found = Records(found.table, replace(found.manifest, results={**found.manifest.results, "absent": absent}))
            if output_dir is not None and is_main():
                found.save(output_dir)
                shutil.rmtree(Path(output_dir) / PARTS, ignore_errors=True)
            barrier()
        held = found
    measures = measure(chosen, held, retain_model, start_model)
    about: dict[str, Any] = {
        "suite": suite,
        "inputs": held.manifest.inputs,
        "settings": held.manifest.arguments,
        "results": {k: v for k, v in held.manifest.results.items() if k != "absent"},
        "versions": versions(),
    }
    for role, other, source in (("reference", retain_model, reference), ("start", start_model, start)):
        if other is not None:
            about[role] = other.manifest.inputs
        if isinstance(source, str | Path):
            about.setdefault("paths", {})[role] = str(source)
    result = Evaluation(measures, label=label or "model", suite=chosen.name, samples=_samples(held), about=about)
    if output_dir is not None and is_main():
        result.save(Path(output_dir) / FILE)
    return result


def measurable(corpus: Corpus, *, suite: str, metrics: Sequence[str] | None) -> Sequence[str] | None:
    """What to measure of a model that another one is compared with; None stands for the suite's usual measures.

    To these come the measures asked for by name that such a model can give by itself.
    """
    usual = _suite(suite, list(corpus), None).names
    if all(name in usual for name in metrics or ()):
        return None
    names = [*usual, *(name for name in metrics or () if name not in usual)]
    absent = missing(_suite(suite, list(corpus), names), corpus, None, None)
    return [name for name in names if name not in absent]


def unmeasurable(corpus: Corpus, *, suite: str, metrics: Sequence[str]) -> dict[str, str]:
    """Those of these measures that no model can be given on this corpus alone, each with the reason.

    Raises:
        ExpungeError: a measure that the suite lacks.
    """
    return missing(_suite(suite, list(corpus), metrics), corpus, None, None)


def unavailable(
    corpus: Corpus, *, suite: str, metrics: Sequence[str], reference: Records | str | Path | None, start: Records | None
) -> dict[str, Measure]:
    """Those of these measures that the data and the other models do not allow: without a value, with the reason.

    Raises:
        ExpungeError: a measure that the suite lacks.
    """
    chosen = _suite(suite, list(corpus), metrics)
    absent = missing(chosen, corpus, _opened(reference), start)
    definitions = {one.name: one.definition for one in chosen.derived}
    definitions |= {one.name: one.definition for one in reversed(chosen.entries)}
    return {name: definitions[name].missing(note) for name, note in absent.items() if name in metrics}


def _suite(name: str, splits: Sequence[str], metrics: Sequence[str] | None) -> Suite:
    found: Suite = catalogue.resolve("suites", name)(splits)
    return found.select(metrics)


def planned(
    source: Records | Corpus, *, suite: str, metrics: Sequence[str] | None, reference: Other, start: Other
) -> Suite:
    """The measures of an evaluation, checked before any model is touched; the run and its dry run both ask this.

    Args:
        source: records of the model, or the corpus that it will be shown.
        suite: name of the suite.
        metrics: names of the measures wanted; None: all.
        reference: records of the retain model, the corpus where they are still to be made, or None.
        start: likewise of the start model.

    Raises:
        ExpungeError: an unknown suite or measure, a named measure that is not available, or nothing to measure.
    """
    chosen = _suite(suite, list(source) if isinstance(source, Corpus) else source.splits, metrics)
    absent = missing(chosen, source, reference, start)
    of_others = {part for one in chosen.derived for part in one.parts}.difference(metrics or ())
    named = [name for name in chosen.names if name not in of_others] if metrics else []
    lacking = [f"{name} is not available. {absent[name]}" for name in named if name in absent]
    if lacking:
        raise ExpungeError("\n".join(lacking))
    if isinstance(source, Corpus):
        wanted, reasons = probes(chosen, source, reference, start)
        if not wanted:
            why = "; ".join(reasons.values())
            raise ExpungeError(f"nothing of the suite '{suite}' can be measured on this corpus: {why}.")
    return chosen


def _opened(source: Records | str | Path | None) -> Records | None:
    return source if source is None or isinstance(source, Records) else load_records(source)


def _reusable(folder: Path, inputs: dict[str, str], arguments: dict[str, object], *, overwrite: bool) -> Records | None:
    if not (folder / RECORDS_FILE).exists():
        return None
    there = Records.load(folder)
    if there.manifest.inputs == inputs and there.manifest.arguments == arguments:
        return there
    if overwrite:
        return None
    differing = sorted(
        name
        for ours, theirs in ((inputs, there.manifest.inputs), (arguments, there.manifest.arguments))
        for name in {*ours, *theirs}
        if ours.get(name) != theirs.get(name)
    )
    raise in_use(folder, f"holds records of something else ({', '.join(differing)} differ)")


def _samples(records: Records) -> tuple[Sample, ...]:
    samples = []
    for prefix, most in SAMPLES.items():
        splits = [s for s in records.splits if s.startswith(prefix)]
        for split in splits[:1]:
            rows = records.where(split=split, asked="question", answer="answer")
            if not rows.has("generation"):
                continue
            columns = zip(*(rows.column(c)[:most] for c in ("prompt", "completion", "generation")), strict=True)
            samples += [Sample(split=split, question=q, answer=a, generation=g) for q, a, g in columns]
    return tuple(samples)
