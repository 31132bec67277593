"""A model card for an unlearned model: what was taken out, how, and what the numbers say; Markdown, ready to publish.

It holds fingerprints and numbers, never a row of the forget set or a sample answer: a card is public, erased data not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from expunge.core.format import number
from expunge.core.manifest import Manifest
from expunge.report.compared_models import Model, assign_roles
from expunge.report.faults import faults
from expunge.report.summary import STANDING, warnings_of
from expunge.report.tables import Table, escape_markdown, markdown_cell, measured, table_of
from expunge.report.text import flat, listed, words
from expunge.results.attacked import Attacked
from expunge.results.measures import Evaluation, Measure

_TAGS = ("machine-unlearning", "unlearning", "expunge")
_SUPPRESSION = "Suppression is not proof of erasure."
_SETS = ("forget", "retain", "holdout")

Form = Literal["merged", "adapter", "gguf"]
_LIBRARIES: Mapping[Form, str] = {"merged": "transformers", "adapter": "peft", "gguf": "transformers"}
_RELATIONS: Mapping[Form, str] = {"merged": "finetune", "adapter": "adapter", "gguf": "finetune"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a card says of the files that it lies beside."""

    form: Form = "merged"
    base_model: str | None = None
    """Name of the start model on a hub; None: it has none."""
    license: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file by its name."""
    parity: Sequence[Mapping[str, Any]] = ()
    """Of an export that rounds: how far it is from the model, set by set."""
    notes: tuple[str, ...] = ()
    """What else a reader must know."""


def card(
    evaluation: Evaluation | None,
    manifest: Manifest,
    *,
    name: str | None = None,
    start: Evaluation | None = None,
    retain: Evaluation | None = None,
    attacked: Attacked | None = None,
    record: Mapping[str, Any] | None = None,
    published: Published | None = None,
) -> str:
    """The model card, with the head that model hubs read.

    What the manifest lacks, such as the fingerprint of the forget set, is named among the warnings.

    Args:
        evaluation: what the unlearned model scored; None: nothing was measured, which the card says.
        manifest: of the run that unlearned it; its `inputs["forget"]` is the fingerprint of the forget set.
        name: of the model; None: the label of the evaluation.
        start: what the model before unlearning scored, for comparison.
        retain: what the model that never saw the forget set scored, for comparison.
        attacked: what attacks drew out of it.
        record: what its erasure record says.
        published: what the card lies beside.
    """
    published, settings = published or Published(), {"method": "not recorded", **flat(manifest.arguments)}
    models = _models(evaluation, start, retain)
    title = name or (models[-1].label if models else "model")
    opening = f"This model was changed to forget a part of what it was trained on, by the method {settings['method']}."
    removed = {"forget set": _content(manifest) or "not recorded", **_file(manifest), **_size(manifest)}
    sections = [
        f"# {escape_markdown(title)}\n\n{escape_markdown(opening)} **{_SUPPRESSION}** {STANDING}",
        f"## What was to be forgotten\n\n{_settings(removed)}",
        f"## How\n\n{_settings(settings)}",
        f"## What it scores\n\n{_measured(models)}",
        f"## Attacks\n\n{_attacks(attacked)}",
        *([f"## Erasure record\n\n{_record(record)}"] if record is not None else []),
        f"## Warnings\n\n{_listed(_warnings(models, manifest, published))}",
        *([f"## Files\n\n{_files(published, record)}"] if published.files else []),
        f"## Provenance\n\n{_settings(_provenance(manifest))}",
    ]
    return head(evaluation, title, published) + "".join(f"\n{section}\n" for section in sections)


def head(evaluation: Evaluation | None, name: str, published: Published) -> str:
    """The part of a card that model hubs read, as YAML between lines of dashes."""
    results = eval_results(evaluation) if evaluation is not None else []
    data = ModelCardData(
        library_name=_LIBRARIES[published.form],
        base_model=published.base_model,
        license=published.license,
        pipeline_tag="text-generation",
        tags=[*_TAGS, *(["gguf"] if published.form == "gguf" else [])],
        model_name=name if results else None,
        eval_results=results or None,
    )
    if published.base_model is not None:
        data["base_model_relation"] = _RELATIONS[published.form]
    return f"---\n{data.to_yaml()}\n---\n"


def eval_results(evaluation: Evaluation) -> list[EvalResult]:
    """The measures that have a finite value, as a hub lists them: by set, each with its fingerprint."""
    rows, found = evaluation.about.get("inputs", {}), []
    for name, measure in evaluation.items():
        if measure.value is None or not math.isfinite(measure.value):
            continue
        split = next((one for one in _SETS if name.startswith(f"{one}_") or name.startswith(f"{one}.")), None)
        content = rows.get(f"data.{split}")
        found.append(
            EvalResult(
                task_type="text-generation",
                task_name="Machine unlearning",
                dataset_type=f"{split}-set" if split is not None else "all-sets",
                dataset_name=f"{split} set" if split is not None else "all sets",
                dataset_args={"fingerprint": content} if content is not None else None,
                metric_type=name,
                metric_name=words(name),
                metric_value=float(measure.value),
                metric_args=_read_as(measure),
            )
        )
    return found


def _read_as(measure: Measure) -> dict[str, Any]:
    interval = {} if measure.interval is None else {"interval_95": [float(end) for end in measure.interval]}
    target = {} if measure.target is None else {"target": float(measure.target)}
    return {"better": measure.better, "n": measure.n, **interval, **target}


def _models(evaluation: Evaluation | None, start: Evaluation | None, retain: Evaluation | None) -> tuple[Model, ...]:
    """The models that were measured, the unlearned one last; empty where it was not."""
    if evaluation is None:
        return ()
    given = {"start model": start, "retain model": retain}
    named = [held.labeled(label) for label, held in given.items() if held is not None] + [evaluation]
    roles = {label.partition(" ")[0]: label if held is not None else None for label, held in given.items()}
    return assign_roles(named, start=roles["start"], retain=roles["retain"])


def _measured(models: tuple[Model, ...]) -> str:
    if not models:
        return "Nothing was measured of this model, so nothing here says whether it forgot anything."
    held = measured(models)
    table = table_of(models, [name for name in held if any(one.value is not None for one in held[name].values())])
    lacking = [f"the {role} model" for role in ("start", "retain") if role not in {model.role for model in models}]
    beside = f" Not measured beside it: {listed(lacking)}." if lacking else ""
    return f"{_reading(table)}{beside}\n\n{_scores(table)}\n\n{_meanings(models, table)}"


def _attacks(attacked: Attacked | None) -> str:
    """What attacks drew out of the model; no question, answer or prompt is among it."""
    if attacked is None:
        return "No attack was tried, so nothing here says whether what was forgotten can be drawn out again."
    header, rows, numeric = attacked.table()
    lines = [list(header), ["---:" if place in numeric else "---" for place in range(len(header))]]
    lines += [[escape_markdown(cell) for cell in row] for row in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{escape_markdown(attacked.text())}\n\n{table}"


def _record(record: Mapping[str, Any]) -> str:
    """Verdict, reasons and what is left, as the record has them."""
    verdict = record["verdict"]
    told = f"Verdict: **{escape_markdown(verdict['text'])}**, policy {escape_markdown(str(verdict['policy']))}."
    return "\n\n".join(
        [
            told,
            *([_listed([escape_markdown(reason) for reason in verdict["reasons"]])] if verdict["reasons"] else []),
            escape_markdown(" ".join(record["residual_risk"])),
            escape_markdown(record["proves"]),
        ]
    )


def _files(published: Published, record: Mapping[str, Any] | None) -> str:
    lines = ["| file | SHA-256 |", "|---|---|"]
    lines += [
        f"| {escape_markdown(name)} | {digest.removeprefix('sha256:')} |" for name, digest in published.files.items()
    ]
    text = "\n".join(lines)
    if published.form == "gguf":
        text += "\n\nScores and attacks above are those of the model before it was written in this form."
    if record is not None:
        text += "\n\nA file is the one that was tested if the erasure record names the same digest."
    for one in published.parity:
        text += (
            f"\n\nOn {one['rows']} of {one['of']} rows of the {one['split']} set, log-probabilities of answers differ "
            f"from the model's by at most {number(one['largest'])} (allowed: {number(one['tolerance'])})."
        )
    return text


def _content(manifest: Manifest) -> str | None:
    """The fingerprint of the forget set: of its rows, else of what the run made of them."""
    found = manifest.results.get("data", {}).get("forget", {}).get("content") or manifest.inputs.get("forget")
    return str(found) if found is not None else None


def _file(manifest: Manifest) -> dict[str, str]:
    """The digest by which whoever has the data can check that it was this file."""
    found = manifest.results.get("data", {}).get("forget", {})
    return {"its file": str(found["file"])} if "file" in found else {}


def _size(manifest: Manifest) -> dict[str, str]:
    rows = manifest.results.get("rows")
    return {"rows": str(rows["forget"])} if isinstance(rows, Mapping) and "forget" in rows else {}


def _settings(pairs: Mapping[str, str]) -> str:
    lines = [f"| {escape_markdown(key)} | {_broken(_named(value))} |" for key, value in pairs.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _broken(value: str) -> str:
    """A value in a cell of a table, where `<br>` is a line break: that of a template belongs to it."""
    return "<br>".join(map(escape_markdown, value.split("\n")))


def _named(value: str) -> str:
    """A value without the folders of the machine where it was set."""
    return Path(value).name if Path(value).is_absolute() and "\n" not in value else value


def _reading(table: Table) -> str:
    text = "↓ lower is better, ↑ higher is better, → nearer to the number is better."
    intervals = any(cell.interval for row in table.rows for cell in row.cells)
    return f"{text} In brackets: 95 % interval, percentile bootstrap over examples." if intervals else text


def _scores(table: Table) -> str:
    """One row a measure, the unlearned model first."""
    rows = [table.rows[-1], *table.rows[:-1]]
    lines = [["measure", *(escape_markdown(row.label) for row in rows)], ["---", *("---:" for _ in rows)]]
    for place, column in enumerate(table.header):
        name = f"{escape_markdown(column.words)} {column.arrow}".strip()
        lines.append([name, *(markdown_cell(row.cells[place]) for row in rows)])
    notes = "".join(f"\n\n[^{letter}]: {escape_markdown(note)}" for letter, note in table.notes)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + notes


def _meanings(models: tuple[Model, ...], table: Table) -> str:
    held = measured(models)
    lines: list[str] = []
    for column in table.header:
        told = dict.fromkeys((m.definition, m.source, m.n) for m in held[column.name].values())
        lines += [
            f"{escape_markdown(column.words)}: {escape_markdown(definition)} ({escape_markdown(source)}; n = {n})"
            for definition, source, n in told
        ]
    return _listed(lines)


def _warnings(models: tuple[Model, ...], manifest: Manifest, published: Published) -> list[str]:
    found = [f"This model: {fault}." for fault in faults(models[-1], models)] if models else []
    found += warnings_of(models, [model.evaluation for model in models]) if models else []
    found += published.notes
    if _content(manifest) is None:
        found.append(
            "The manifest holds no fingerprint of the forget set, so nothing here says what was to be forgotten."
        )
    if not manifest.results.get("finished"):
        found.append("The manifest does not say that the run was finished.")
    if manifest.git and manifest.git.get("dirty"):
        found.append("The run started from a source tree with uncommitted changes.")
    noted: dict[str, list[str]] = {}
    for name, one in models[-1].evaluation.items() if models else ():
        if one.note:
            noted.setdefault(one.note, []).append(name)
    found += [f"{', '.join(names)}: {note}" for note, names in noted.items()]
    return [escape_markdown(warning) for warning in found]


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) if lines else "None found by expunge."


def _fingerprint_of(role: str) -> str:
    """Of rows it is the fingerprint of their tokens, as the run read them; that of their texts stands above."""
    return f"fingerprint of the {role} rows as tokens" if role in _SETS else f"fingerprint of {role}"


def _provenance(manifest: Manifest) -> dict[str, str]:
    start = str(manifest.results.get("start_model", "not recorded"))
    return {
        "start model": start,
        **{_fingerprint_of(role): value for role, value in manifest.inputs.items()},
        "seed": str(manifest.seed),
        "commit": str((manifest.git or {}).get("commit", "not recorded")),
        "created": manifest.created,
        **{f"version of {package}": version for package, version in manifest.versions.items()},
    }
