"""The report as Markdown that also reads as plain text: verdicts, buckets, facts that leak, attacks, measures."""

from collections.abc import Sequence

from expunge.core.output import REPORT_MARK
from expunge.report.data import ReportData
from expunge.report.page import NAMES
from expunge.report.summary import STANDING
from expunge.report.tables import escape_markdown, markdown
from expunge.report.text import p_text, points


def as_markdown(data: ReportData) -> str:
    """The text of the report; texts of data and models are made inert."""
    parts = [f"# {escape_markdown(data.title)}"]
    for verdict in data.verdicts:
        model = data.models[verdict.model]
        parts.append(f"## {escape_markdown(model.name)}\n\n**{escape_markdown(verdict.headline)}**")
        parts.append("\n".join(f"- {escape_markdown(sentence)}" for sentence in verdict.sentences))
        if data.counts[verdict.model]:
            parts.append(_buckets(data, verdict.model))
        parts += [_list(data, verdict.model, bucket) for bucket in ("leaks", "collateral")]
    for found in data.attacked:
        header, rows, _ = found.table()
        parts.append(f"## Attacks on {escape_markdown(found.label)}\n\n{_table(header, rows)}")
    parts += [escape_markdown(note) for note in data.notes]
    if data.warnings:
        parts.append("## Before comparing\n\n" + "\n".join(f"- {escape_markdown(one)}" for one in data.warnings))
    if data.table.header:
        parts.append(f"## All measures\n\n{markdown(data.table)}")
    parts += [STANDING, REPORT_MARK]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _buckets(data: ReportData, model: int) -> str:
    rows = []
    for one in data.counts[model]:
        interval = "-" if one.interval is None else _range(one.interval)
        change, p = "-", "-"
        if one.difference is not None and one.difference_interval is not None and one.p is not None:
            low, high = one.difference_interval
            change, p = f"{points(one.difference)} ({points(low)} to {points(high)})", p_text(one.p)
        rows.append((NAMES[one.bucket], f"{one.facts} of {one.of}", interval, change, p))
    header = (
        "bucket",
        "facts",
        "95 % interval, %",
        "change since the start model, points",
        "McNemar's p",
    )
    return _table(header, rows)


def _range(interval: tuple[float, float]) -> str:
    return " to ".join(f"{100 * end:.0f}" for end in interval)


def _list(data: ReportData, model: int, bucket: str) -> str:
    facts = [fact for fact, of in zip(data.facts, data.buckets[model], strict=True) if of == bucket]
    lines = [f"- {escape_markdown(f'{fact.split} {fact.number + 1}: {fact.question}')}" for fact in facts]
    return f"### {NAMES[bucket]}\n\n" + "\n".join(lines) if facts else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[escape_markdown(cell) for cell in line] for line in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(header), *lines[1:]])
