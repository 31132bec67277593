"""How numbers and foreign text are written wherever they are shown, and measures as a plain table."""

import math
import re
from collections.abc import Sequence

from expunge.core.results import Direction, Evaluation, Measure

# Directional overrides can reorder what stands around them; surrogates, U+FFFE and U+FFFF fit in no UTF-8 or XML file.
_DIRECTIONAL = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F]
_SHOWN = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    **dict.fromkeys((0xFFFE, 0xFFFF), "\ufffd"),
    **{code: f"\u27e8U+{code:04X}\u27e9" for code in _DIRECTIONAL},
}


def counted(count: float, thing: str) -> str:
    """A count with its noun: `1 step`, `2 steps`, `0.5 epochs`."""
    return f"{count:g} {thing}" if count == 1 else f"{count:g} {thing}s"


def number(value: float) -> str:
    """Three significant digits without trailing zeros; below 0.001 and from a million on in scientific form.

    Whole numbers of four to six digits keep all their digits: 5215 stays 5215.
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{_trimmed(mantissa)}e{int(exponent)}"
    return f"{value:.0f}" if abs(value) >= 100 else _trimmed(f"{value:.3g}")


def _trimmed(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def power_of_ten(log10: float) -> str:
    """10 ** log10 with three significant digits, also where a float would be 0: 3.16e-400."""
    exponent = math.floor(log10)
    mantissa = f"{10 ** (log10 - exponent):.2f}"
    if mantissa == "10.00":
        mantissa, exponent = "1.00", exponent + 1
    return f"{_trimmed(mantissa)}e{exponent}"


def value_text(measure: Measure) -> str:
    """A measure's value as shown; `-` where there is none. A p-value that underflowed is written from its `log10_p`."""
    if measure.value is None:
        return "-"
    log10_p = measure.details.get("log10_p")
    if measure.value == 0 and log10_p is not None and math.isfinite(log10_p):
        return power_of_ten(log10_p)
    return number(measure.value)


def interval_text(interval: tuple[float, float] | None) -> str:
    """`0.31–0.36`, `-0.2 – 0.1`, or nothing."""
    if interval is None:
        return ""
    dash = " – " if min(interval) < 0 else "–"
    return dash.join(number(end) for end in interval)


def direction_text(better: Direction | None, target: float | None) -> str:
    """Which way is better, in words."""
    if better == "near":
        return f"nearer to {number(target)} is better" if target is not None else "nearer to its target is better"
    return f"{better} is better" if better else "which way is better differs between these models"


def legible(text: str) -> str:
    """Text of models and data with everything invisible or unwritable made visible; newlines and tabs stay.

    Control characters become their pictures, directional overrides their code point, what no file can hold U+FFFD.
    """
    return text.replace("\r\n", "\n").translate(_SHOWN)


def one_line(text: str) -> str:
    """Legible text on a single line."""
    return " ".join(legible(text).split())


INLINE = 40
"""Longest note that stands in its row; longer ones go below the table."""


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> list[str]:
    """Rows as lines in columns.

    Args:
        header: one word a column.
        rows: cells as text.
        numeric: columns that are set flush right.
    """
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = []
    for line in [header, *rows]:
        cells = [c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def measures_table(result: Evaluation) -> tuple[list[str], list[list[str]], tuple[int, ...], list[str]]:
    """An evaluation as header, rows, right-set columns and footnotes; the start model has a column if known."""
    with_start = any("start_value" in measure.details for measure in result.values())
    header = ["measure", "value", "95 % interval", *(["start"] if with_start else []), "direction", "n", "note"]
    footnotes: dict[str, list[str]] = {}
    rows = []
    for name, measure in result.items():
        start = measure.details.get("start_value")
        rows.append(
            [
                name,
                value_text(measure),
                interval_text(measure.interval),
                *([] if not with_start else ["-" if start is None else number(start)]),
                direction_text(measure.better, measure.target),
                str(measure.n),
                _marked(name, one_line(measure.note), footnotes),
            ]
        )
    notes = [f"[{i}] {text} ({_some_of(concerned)})" for i, (text, concerned) in enumerate(footnotes.items(), start=1)]
    return header, rows, (1, 3, 5) if with_start else (1, 4), notes


def _marked(name: str, note: str, footnotes: dict[str, list[str]]) -> str:
    """A short note as it is; the marks of what a longer one says, each of which joins the footnotes once."""
    if len(note) <= INLINE:
        return note
    said = _said(note)
    for one in said:
        footnotes.setdefault(one, []).append(name)
    places = list(footnotes)
    return "".join(f"[{places.index(one) + 1}]" for one in said)


def _said(note: str) -> list[str]:
    """What a note says, one by one: its sentences, and of one that tells what is missing each reason."""
    found: list[str] = []
    for sentence in _SENTENCE.split(note):
        reasons = _REASON.split(sentence) if sentence.startswith(_MISSING) else [sentence]
        for reason in reasons:
            text = reason.removeprefix(_MISSING).removesuffix(".")
            found.append(f"{_MISSING}{text}." if sentence.startswith(_MISSING) else reason)
    return list(dict.fromkeys(found))


_MISSING = "Missing: "
# A command belongs to the sentence before it.
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])(?!Make )")
_REASON = re.compile(r"; (?:or )?(?!then )")
_MOST_NAMED = 3


def _some_of(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_MOST_NAMED])} and {more} more"


def evaluation_text(result: Evaluation) -> str:
    """An evaluation as a readable table with its footnotes."""
    header, rows, numeric, notes = measures_table(result)
    return "\n".join([f"{result.label}, suite {result.suite}", *columns(header, rows, numeric=numeric), *notes])
