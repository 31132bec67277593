"""How numbers, foreign text and plain tables are written wherever they are shown."""

import math
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

UNBOUNDED = 10_000
"""Columns of text where there is no terminal."""

# Directional overrides can reorder what stands around them; surrogates, U+FFFE and U+FFFF fit in no UTF-8 or XML file.
_DIRECTIONAL = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C]
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


def in_units(amount: float) -> str:
    """Bytes as `28.3 MB` or `1.2 GB`."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


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


def legible(text: str) -> str:
    """Text of models and data with everything invisible or unwritable made visible; newlines and tabs stay.

    Control characters become their pictures, directional overrides their code point, what no file can hold U+FFFD.
    """
    return text.replace("\r\n", "\n").translate(_SHOWN)


def one_line(text: str) -> str:
    """Legible text on a single line."""
    return " ".join(legible(text).split())


def drawn_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> "Table":
    """Rows in columns, for a rich console: markup as it is, control characters visible, long cells folded.

    Args:
        header: one word a column.
        rows: cells as text.
        numeric: columns that are set flush right.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(header):
        drawn.add_column(Text(legible(name)), justify="right" if i in numeric else "left", overflow="fold")
    for line in rows:
        drawn.add_row(*(Text(legible(cell)) for cell in line))
    return drawn


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> list[str]:
    """The same table as plain lines, as wide as its cells."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=UNBOUNDED, color_system=None).print(drawn_table(header, rows, numeric=numeric))
    return [line.rstrip() for line in text.getvalue().rstrip("\n").split("\n")]
