"""A model card for an unlearned model: what was taken out, how, and what the numbers say; Markdown, ready to publish.

It holds fingerprints and numbers, never a row of the forget set or a sample answer: a card is public, erased data not.
"""

from collections.abc import Mapping
from pathlib import Path

from expunge.core.manifest import Manifest
from expunge.report.compared_models import Model, assign_roles
from expunge.report.faults import faults
from expunge.report.summary import STANDING, warnings_of
from expunge.report.tables import Table, escape_markdown, markdown_cell, measured, table_of
from expunge.report.text import flat
from expunge.results.measures import Evaluation

_HEAD = """---
library_name: transformers
tags:
- machine-unlearning
---
"""
_SUPPRESSION = "Suppression is not proof of erasure."


def card(
    evaluation: Evaluation, manifest: Manifest, *, start: Evaluation | None = None, retain: Evaluation | None = None
) -> str:
    """The model card, with the head that model hubs read.

    What the manifest lacks, such as the fingerprint of the forget set, is named among the warnings.

    Args:
        evaluation: what the unlearned model scored.
        manifest: of the run that unlearned it; its `inputs["forget"]` is the fingerprint of the forget set.
        start: what the model before unlearning scored, for comparison.
        retain: what the model that never saw the forget set scored, for comparison.
    """
    given = {"start model": start, "retain model": retain}
    named = [held.labeled(name) for name, held in given.items() if held is not None] + [evaluation]
    roles = {name.partition(" ")[0]: name if held is not None else None for name, held in given.items()}
    models = assign_roles(named, start=roles["start"], retain=roles["retain"])
    table = table_of(models)
    settings = {"method": "not recorded", **flat(manifest.arguments)}
    opening = f"This model was changed to forget a part of what it was trained on, by the method {settings['method']}."
    removed = {"forget set": manifest.inputs.get("forget", "not recorded"), **_file(manifest), **_size(manifest)}
    sections = [
        f"# {escape_markdown(models[-1].label)}\n\n{escape_markdown(opening)} **{_SUPPRESSION}** {STANDING}",
        f"## What was to be forgotten\n\n{_settings(removed)}",
        f"## How\n\n{_settings(settings)}",
        f"## What it scores\n\n{_reading(table)}\n\n{_scores(table)}\n\n{_meanings(models, table)}",
        f"## Warnings\n\n{_listed(_warnings(models, manifest))}",
        f"## Provenance\n\n{_settings(_provenance(manifest))}",
    ]
    return _HEAD + "".join(f"\n{section}\n" for section in sections)


def _file(manifest: Manifest) -> dict[str, str]:
    """The digest by which whoever has the data can check that it was this file."""
    found = manifest.results.get("data", {}).get("forget", {})
    return {"its file": str(found["file"])} if "file" in found else {}


def _size(manifest: Manifest) -> dict[str, str]:
    rows = manifest.results.get("rows")
    return {"rows": str(rows["forget"])} if isinstance(rows, Mapping) and "forget" in rows else {}


def _settings(pairs: Mapping[str, str]) -> str:
    lines = [f"| {escape_markdown(key)} | {escape_markdown(value)} |" for key, value in pairs.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


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
    lines = []
    for column in table.header:
        told = dict.fromkeys((m.definition, m.source, m.n) for m in held[column.name].values())
        lines += [
            f"{escape_markdown(column.words)}: {escape_markdown(definition)} ({escape_markdown(source)}; n = {n})"
            for definition, source, n in told
        ]
    return _listed(lines)


def _warnings(models: tuple[Model, ...], manifest: Manifest) -> list[str]:
    found = [f"This model: {fault}." for fault in faults(models[-1], models)]
    found += warnings_of(models, [model.evaluation for model in models])
    if "forget" not in manifest.inputs:
        found.append(
            "The manifest holds no fingerprint of the forget set, so nothing here says what was to be forgotten."
        )
    if not manifest.results.get("finished"):
        found.append("The manifest does not say that the run was finished.")
    if manifest.git and manifest.git.get("dirty"):
        found.append("The run started from a source tree with uncommitted changes.")
    unlearned = models[-1].evaluation
    found += [f"{name}: {measure.note}" for name, measure in unlearned.items() if measure.note]
    return [escape_markdown(warning) for warning in found]


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) if lines else "None found by expunge."


def _provenance(manifest: Manifest) -> dict[str, str]:
    start = str(manifest.results.get("start_model", "not recorded"))
    return {
        "start model": Path(start).name if Path(start).is_absolute() else start,
        **{f"fingerprint of {role}": value for role, value in manifest.inputs.items()},
        "seed": str(manifest.seed),
        "commit": str((manifest.git or {}).get("commit", "not recorded")),
        "created": manifest.created,
        **{f"version of {package}": version for package, version in manifest.versions.items()},
    }
