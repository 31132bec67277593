"""Evaluate: a model, or records of one, and a suite in; an Evaluation out."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from expunge.core import catalogue
from expunge.core.checks import ExpungeError, path_of, require_at_least, require_names, require_type
from expunge.core.distributed import barrier, from_main, is_main, join
from expunge.core.lock import locked
from expunge.core.manifest import Manifest, versions
from expunge.core.nested import finite
from expunge.core.output import check_output_file, in_use
from expunge.core.progress import Progress
from expunge.core.surface import assigned, flag
from expunge.data.corpus import Corpus, check_corpus
from expunge.data.template import Template, dated
from expunge.evaluation.collect import collect, identity
from expunge.evaluation.judges import asking
from expunge.evaluation.suite import Entry, Other, Suite, available, measure, missing, probes
from expunge.models.finite import check_finite
from expunge.models.load import check_loaded
from expunge.results.foreign_logs import load_records
from expunge.results.measures import Evaluation, Measure, Sample
from expunge.results.places import EVALUATION, check_measured
from expunge.results.records import FILE as RECORDS_FILE
from expunge.results.records import DamagedRecords, Records
from expunge.results.texts import Texts, check_texts

PARTS = "parts"
"""Folder inside the output in which a collection keeps what it has computed, until the records are saved."""


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
    texts: Texts = "keep",
    replaces: Sequence[Path] = (),
    batch_size: int | None = None,
    judges: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compute a suite's measures for a model, or for records of one without touching a model.

    A measure that is not available (no holdout set, no retain model, ...) is there without a value, and its note says
    what is missing and how to make it. Processes that a launcher started share the rows; each returns the evaluation,
    and the first writes.

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
        texts: what `output_dir` holds of the questions, the answers and the generations: the texts (`keep`), their
            SHA-256 (`hash`) or nothing (`drop`). Measures are computed before; records without texts are made anew
            rather than used instead of the model.
        replaces: files made of earlier records, such as an exported log, that go when new records are written.
        batch_size: rows computed at once; None: found by a budget of tokens.
        judges: models that some measures ask: `embedding` (sentence embeddings) and `gibberish`, each a folder or hub
            id; None: those of the papers, where they are downloaded.
        progress: called with (what, done, total, numbers).

    Raises:
        ExpungeError: neither or both of model and records, an unknown suite or measure, a named measure that is not
            available, or an `output_dir` in use.
    """
    join()
    check_texts(texts)
    require_type("label", label or "", str, "text")
    if batch_size is not None:
        require_at_least("batch_size", batch_size, 1)
    output = None if output_dir is None else path_of("output_dir", output_dir)
    if output is not None:
        check_measured(output)
    retain_model, start_model = _opened(reference), _opened(start)
    if output is not None and not overwrite:
        _check_still_compared(output, {"reference": retain_model, "start": start_model})
    # The main process holds the lock for all.
    with asking(judges), locked(output if is_main() else None):
        if records is not None:
            if model is not None or tokenizer is not None or corpus is not None:
                raise ExpungeError(
                    "evaluate takes either a model with tokenizer and corpus, or records; both were given."
                )
            held = _opened(records)
            assert held is not None
            chosen = planned(held, suite=suite, metrics=metrics, reference=retain_model, start=start_model)
            check_rescored(held, output, overwrite=overwrite)
        else:
            if model is None or tokenizer is None or corpus is None:
                raise ExpungeError("evaluate needs a model with its tokenizer and a corpus, or records of a model.")
            check_loaded(model, tokenizer)
            check_finite(model)
            check_corpus(corpus)
            chosen = planned(corpus, suite=suite, metrics=metrics, reference=retain_model, start=start_model)
            date = from_main(lambda: date_of(there(output), retain_model, start_model))
            template = dated(template, tokenizer, like=date)
            wanted, absent = probes(chosen, corpus, retain_model, start_model)
            made = identity(model, tokenizer, corpus, wanted, template=template, max_length=max_length)
            found = None
            if output is not None:
                found = from_main(lambda: reusable(output, made, texts=texts, overwrite=overwrite))
            if found is None:
                found = collect(
                    model,
                    tokenizer,
                    corpus,
                    wanted,
                    template=template,
                    max_length=max_length,
                    batch_size=batch_size,
                    parts=None if output is None else output / PARTS,
                    progress=progress,
                )
                found = Records(
                    found.table, replace(found.manifest, results={**found.manifest.results, "absent": absent})
                )
                if output is not None and is_main():
                    for old in (output / EVALUATION, *replaces):
                        old.unlink(missing_ok=True)  # first, so that a kill leaves nothing of other records
                    found.with_texts(texts).save(output)
            if output is not None and is_main():
                shutil.rmtree(output / PARTS, ignore_errors=True)  # also where a run was killed before it came to this
            held = found
        for what, other in (("retain", retain_model), ("start", start_model)):
            check_same_date(date_of(held), other, what)
        measures = measure(chosen, held, retain_model, start_model) | (_of_the_log(held) if metrics is None else {})
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
        rows = _samples(held, measures, available(chosen, held, retain_model, start_model))
        result = Evaluation(measures, label=label or "model", suite=chosen.name, samples=rows, about=about)
        if output is not None and is_main():
            result.with_texts(texts).save(output / EVALUATION)
        if output is not None:
            barrier()
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
    if metrics is not None:
        require_names("metrics", metrics)
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


def _of_the_log(records: Records) -> dict[str, Measure]:
    """The metrics that a log holds as one number alone, or of which no example's number could be read."""
    return {
        f"log_{name}": Measure(
            value=value,
            definition=f"{name}, as the log has it",
            source="the log",
            better="lower" if name.startswith("forget") else "higher",
            n=0,
            note="One number of the log, which cannot be computed again here; which way is better, its name says.",
        )
        for name, value in records.manifest.results.get("log_values", {}).items()
    }


def check_same_date(ours: str | None, other: Records | None, what: str) -> None:
    """Raise for records whose prompts carry another date than those that they are compared with."""
    theirs = date_of(other)
    if other is not None and "template" in other.manifest.arguments and ours != theirs:
        raise ExpungeError(
            f"the chat template writes the date: the records of the {what} model were made with "
            f"{theirs or 'another one'}, those of the model with {ours or 'another one'}, so that their prompts "
            f"differ. Make one of them again: expunge evaluate ... date={theirs or ours}"
        )


def date_of(*records: Records | None) -> str | None:
    """The first date that prompts of these records carry."""
    dates = (r.manifest.arguments.get("template", {}).get("date") for r in records if r is not None)
    return next(filter(None, dates), None)


def there(folder: Path | None) -> Records | None:
    """The records in an output folder, where there are whole ones."""
    try:
        return Records.load(folder) if folder is not None and (folder / RECORDS_FILE).is_file() else None
    except DamagedRecords:
        return None  # `reusable` says so


def reusable(folder: Path, made: Manifest, *, texts: Texts = "keep", overwrite: bool = False) -> Records | None:
    """The records in an output folder, where they are the ones that are asked for; the run and its dry run ask this.

    Args:
        folder: the output folder.
        made: the manifest of the records that are asked for, from `identity`.
        texts: as for `evaluate`; what has no texts gives no scores of texts, and is not used again.
        overwrite: may other or damaged records be replaced?

    Returns:
        The records; None where they are still to be made.

    Raises:
        ExpungeError: there are damaged records, or records of something else, and `overwrite` was not said.
    """
    if not (folder / RECORDS_FILE).exists():
        check_output_file(folder / EVALUATION, overwrite=overwrite)
        return None
    try:
        there = Records.load(folder)
    except DamagedRecords:
        if overwrite:
            return None
        raise
    arguments = made.arguments | ({} if texts == "keep" else {"texts": texts})
    if there.manifest.inputs == made.inputs and there.manifest.arguments == arguments:
        return there if texts == "keep" else None
    if overwrite:
        return None
    differing = sorted(
        name
        for ours, theirs in ((made.inputs, there.manifest.inputs), (arguments, there.manifest.arguments))
        for name in {*ours, *theirs}
        if ours.get(name) != theirs.get(name)
    )
    told = (_CALLED.get(name, f"{name.removeprefix('data.')} set" if "." in name else name) for name in differing)
    raise in_use(folder, f"holds records of something else. Not the same: {', '.join(told)}")


_CALLED = {"probes": "what the measures ask of each row"}
"""What a user knows a field of a manifest as."""


def _check_still_compared(output: Path, others: Mapping[str, Records | None]) -> None:
    """Raise where an evaluation would take the place of one that is compared with a model that this one is not."""
    if not (output / EVALUATION).is_file():
        return
    about = Evaluation.load(output / EVALUATION).about
    lost = [role for role, other in others.items() if role in about and other is None]
    if lost:
        named = assigned(**{role: about.get("paths", {}).get(role, "<records>") for role in lost})
        raise ExpungeError(
            f"the evaluation in {output} is compared with other records ({', '.join(lost)}), which would be lost. "
            f"Name them again, {named}, or choose another output, or replace the evaluation ({flag('overwrite')})."
        )


def check_rescored(records: Records, output: Path | None, *, overwrite: bool) -> None:
    """Raise where the evaluation of records must not be saved in a folder.

    Raises:
        ExpungeError: an evaluation is there and `overwrite` was not said, or records of something else are there.
    """
    if output is None:
        return
    check_output_file(output / EVALUATION, overwrite=overwrite)
    if (output / RECORDS_FILE).exists():
        there = Records.manifest_in(output)
        if (there.inputs, there.arguments) != (records.manifest.inputs, records.manifest.arguments):
            raise ExpungeError(
                f"the output folder {output} holds records of something else than those that are measured here; the "
                "two must not be mixed. Choose another output."
            )


def _samples(records: Records, measures: Mapping[str, Measure], computed: Mapping[str, Entry]) -> tuple[Sample, ...]:
    """Every row that the model answered, forget and retain sets first, with the values of the measures on it."""
    samples: list[Sample] = []
    for split in sorted(records.splits, key=lambda split: not split.startswith(("forget", "retain"))):
        rows = records.where(split=split, asked="question", answer="answer")
        if not rows.has("generation") and records.texts == "keep":
            continue  # nothing was asked of this set
        values = {
            name: measures[name].per_example
            for name, entry in computed.items()
            if _of_each_row(entry, split) and len(measures[name].per_example) == len(rows)
        }
        logprobs = rows.column("logprobs") if rows.has("logprobs") else [()] * len(rows)
        ends = rows.column("ends") if "ends" in rows.table.column_names else [None] * len(rows)
        end = "_sha256" if records.texts == "hash" else ""
        texts = (rows.column(f"{name}{end}") for name in ("prompt", "completion", "generation"))
        for i, (question, answer, said, own, places) in enumerate(zip(*texts, logprobs, ends, strict=True)):
            samples.append(
                Sample(
                    split=split,
                    question=question or "",
                    answer=answer or "",
                    generation=said,
                    values={name: finite(found[i]) for name, found in values.items()},
                    probabilities=tuple(float(f"{math.exp(value):.4g}") for value in own),
                    ends=tuple(places or ()),
                )
            )
    return tuple(samples)


def _of_each_row(entry: Entry, split: str) -> bool:
    """Does a measure have a value for each true answer of a set, asked as in the data?"""
    probes = [(view.whose, view.probe.split, view.probe.asked, view.probe.answer) for view in entry.views.values()]
    return probes == [("model", split, "question", "answer")]
