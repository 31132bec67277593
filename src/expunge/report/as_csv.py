"""The facts as a table for spreadsheets and data frames: one row a fact and model."""

import csv
import io

from expunge.report.data import ReportData, changes
from expunge.report.facts import Fact
from expunge.report.text import legible

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def as_csv(data: ReportData) -> str:
    """One row per fact and model: where it belongs, its values, and what each attack on the model drew out of it.

    The retain model has no bucket and no change: it knew nothing that it could have forgotten or lost.
    A text that a spreadsheet would take for a formula stands behind an apostrophe.
    """
    measures = list(dict.fromkeys(name for fact in data.facts for one in fact.said if one for name in one.values))
    attacks = list(dict.fromkeys(attack.column.name for attack in data.attacks))
    header = ["set", "number", "question", "answer", "model", "role", "bucket", "change", "generation", *measures]
    header += [f"{name} {what}" for name in attacks for what in ("value", "recovery", "leaks", "step")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_inert(name) for name in header])
    changed = [changes(data, model) for model in range(len(data.models))]
    for i, fact in enumerate(data.facts):
        for j, model in enumerate(data.models):
            said = fact.said[j]
            row: list[object] = [_inert(fact.split), fact.number + 1, _inert(fact.question), _inert(fact.answer)]
            placed = ("", "") if model.role == "retain" else (data.buckets[j][i], changed[j][i])
            row += [_inert(model.label), model.role or "unlearned", *placed]
            row.append(_inert((said.generation if said else None) or ""))
            row += ["" if said is None or said.values.get(name) is None else said.values[name] for name in measures]
            writer.writerow([*row, *_attacked(data, fact, j, attacks)])
    return buffer.getvalue()


def _attacked(data: ReportData, fact: Fact, model: int, names: list[str]) -> list[object]:
    own = {data.attacks[i].column.name: cell for i, cell in fact.tried.items() if data.attacks[i].model == model}
    cells: list[object] = []
    for name in names:
        cell = own.get(name)
        cells += [None] * 4 if cell is None else [cell.value, cell.recovery, cell.leaks, cell.step]
    return cells


def _inert(text: str) -> str:
    plain = legible(text)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain
