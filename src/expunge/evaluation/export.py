"""Records out: in the formats of other programs, so that their tools read our models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expunge.core.checks import ExpungeError, unknown
from expunge.core.output import check_output_file
from expunge.core.whole import write_whole
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.metrics.extraction_strength import strength
from expunge.evaluation.metrics.mia import COLUMNS, scores
from expunge.evaluation.metrics.rouge import overlaps
from expunge.evaluation.suites.tofu import tofu
from expunge.evaluation.views import Sources, without_gaps
from expunge.results.foreign_logs import LogSource, load_records, open_unlearning
from expunge.results.measures import Measure
from expunge.results.records import Records

LOG, SUMMARY = "TOFU_EVAL.json", "TOFU_SUMMARY.json"

AGGREGATES = {
    "forget_probability": "forget_Q_A_Prob",
    "forget_paraphrased_probability": "forget_Q_A_PARA_Prob",
    "forget_rouge": "forget_Q_A_ROUGE",
    "forget_paraphrased_rouge": "forget_Q_A_PARA_ROUGE",
    "forget_truth_ratio": "forget_truth_ratio",
    "forget_quality": "forget_quality",
    "forget_exact_memorization": "exact_memorization",
    "forget_extraction_strength": "extraction_strength",
    "retain_probability": "retain_Q_A_Prob",
    "retain_rouge": "retain_Q_A_ROUGE",
    "retain_truth_ratio": "retain_Truth_Ratio",
    "real_authors_probability": "ra_Q_A_Prob_normalised",
    "real_authors_rouge": "ra_Q_A_ROUGE",
    "real_authors_truth_ratio": "ra_Truth_Ratio",
    "world_facts_probability": "wf_Q_A_Prob_normalised",
    "world_facts_rouge": "wf_Q_A_ROUGE",
    "world_facts_truth_ratio": "wf_Truth_Ratio",
    "model_utility": "model_utility",
    "privleak": "privleak",
    "mia_loss": "mia_loss",
    "mia_zlib": "mia_zlib",
    "mia_min_k": "mia_min_k",
    "mia_min_k_plus_plus": "mia_min_k_plus_plus",
    "mia_reference": "mia_reference",
}
"""Our measure of the suite `tofu` to the name of its aggregate in the log."""


def export(
    records: Records | str | Path,
    folder: str | Path,
    *,
    form: str = "open-unlearning",
    reference: Records | str | Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a model's records as another program's evaluation log.

    `open-unlearning`: `TOFU_EVAL.json` with the value of every example, and `TOFU_SUMMARY.json` with the aggregates.
    Definitions stay ours where they differ: extraction strength reaches 0 (theirs never falls below 1/n), and end
    tokens are left out of membership scores. What the records lack is left out of the log.

    Args:
        records: of the model, or a path that `load_records` reads.
        folder: where the two files go.
        form: name of the format.
        reference: records of the retain model, which forget quality and PrivLeak need.
        overwrite: replace the files.

    Returns:
        The paths written.

    Raises:
        ExpungeError: an unknown format, files that are there, or records that hold nothing for it.
    """
    if form != "open-unlearning":
        raise unknown("format to export to", form, ["open-unlearning"])
    folder = Path(folder)
    held = records if isinstance(records, Records) else load_records(records)
    found = evaluate(records=held, reference=reference, suite="tofu")
    content = _per_example(held)
    summary: dict[str, float | None] = {}
    for ours, theirs in AGGREGATES.items():
        value = _known(found[ours])
        if value is not None or theirs in content:
            content.setdefault(theirs, {})["agg_value"] = value
            summary[theirs] = value
    for ours, theirs in AGGREGATES.items():
        name = "score" if "ratio" in theirs.lower() else "prob" if theirs.endswith("normalised") else None
        if name is not None and _known(found[ours]) is not None:
            content[theirs]["value_by_index"] = _indexed(held, found[ours], ours, name)
        if theirs.startswith("mia_") and _known(found[ours]) is not None:
            content[theirs]["auc"] = found[ours].value
    if not content:
        raise ExpungeError(f"these records hold nothing of a {LOG}; their splits are {', '.join(held.splits)}.")
    paths = check_log(folder, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.unlink(missing_ok=True)  # a kill leaves no mixture of two logs
    _write(paths[0], content)
    _write(paths[1], summary)
    return paths


def check_log(folder: Path, *, overwrite: bool) -> list[Path]:
    """Where the two files of a log go.

    Raises:
        ExpungeError: one of them is there and `overwrite` was not said.
    """
    paths = [folder / LOG, folder / SUMMARY]
    for path in paths:
        check_output_file(path, overwrite=overwrite)
    return paths


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(dict(sorted(content.items())), indent=4) + "\n")


def _known(measure: Measure) -> float | None:
    return None if measure.value is None or not np.isfinite(measure.value) else float(measure.value)


def _per_example(records: Records) -> dict[str, dict[str, Any]]:
    """What the reader of the same format reads, written where it looks for it."""
    content: dict[str, dict[str, Any]] = {}
    for source in open_unlearning():
        if source.column == "truth_ratio":
            continue  # written with its aggregate
        rows = _rows(records, source)
        values = _values(rows, source.column) if len(rows) else None
        if values is None:
            continue
        place = content
        for key in source.key:
            place = place.setdefault(key, {})
        several = source.answer == "perturbed"
        for index, value in zip(rows.column("index"), values, strict=True):
            cell = place.setdefault(str(index), {})
            name = source.field or "score"
            cell[name] = [*cell.get(name, []), value] if several else value
    return content


_SCORES = {column: score for score, (_, column) in COLUMNS.items()}
_ALSO: Mapping[str, str] = {"retain_perturbed": "retain", "world_facts": "world"}
"""Splits that stand for TOFU's where those are not there."""


def _rows(records: Records, source: LogSource) -> Records:
    split = source.split
    if split not in records.splits:
        split = _ALSO.get(split, split)
    return records.where(split=split, asked="question", answer=source.answer)


def _values(rows: Records, column: str) -> list[float | None] | None:
    """One number a row, computed or, with its nulls, as a log had it; None where neither can be."""
    if column in rows.table.column_names and rows.table[column].null_count < len(rows):
        return rows.column(column)
    computed = _computed(rows, column)
    return None if computed is None else computed.tolist()


def _computed(rows: Records, column: str) -> np.ndarray | None:
    """One number a row from tokens and texts; None where there are none."""
    tokens = rows.has("logprobs")
    if column == "avg_loss":
        return rows.mean_losses() if tokens else None
    if column == "probability":
        return rows.probabilities() if tokens or rows.has("avg_loss") else None
    if column.startswith("rouge"):
        kind, of = column.split("_")
        measured = "fmeasure" if of == "f1" else of
        return overlaps(rows, kind=kind, of=measured) if rows.has("generation") else None  # type: ignore[arg-type]
    if column == "exact_memorization":
        return np.array([hits.mean() for hits in rows.bodies("hits")]) if rows.has("hits") else None
    if column == "extraction_strength":
        return np.array([strength(hits) for hits in rows.bodies("hits")]) if rows.has("hits") else None
    score = _SCORES.get(column)
    return scores(rows, score) if score and rows.has(COLUMNS[score][0]) else None


def _indexed(records: Records, measure: Measure, ours: str, name: str) -> dict[str, dict[str, float]]:
    """The value of every example that the measure was computed on, by the example's index."""
    (entry,) = tofu(records.splits).select([ours]).entries
    sources, reads = Sources(records), entry.reads or entry.definition.reads
    views, _ = without_gaps({k: (view, sources.rows(view)) for k, view in entry.views.items()}, reads)
    index = views["correct"].column("index")
    return {str(i): {name: value} for i, value in zip(index, measure.per_example, strict=True)}
