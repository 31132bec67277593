"""How numbers, measure names and foreign text are written in every report."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from expunge.core.results import Direction, Measure

_SPELLED = {
    "auc": "AUC",
    "aues": "AUES",
    "em": "EM",
    "es": "ES",
    "kl": "KL",
    "lora": "LoRA",
    "mia": "MIA",
    "min_k": "Min-K",
    "mmlu": "MMLU",
    "mu95": "MU95",
    "privleak": "PrivLeak",
    "rouge": "ROUGE",
    "wmdp": "WMDP",
}
_WORD = re.compile("|".join(["min_k(?=[_ ]|$)", "[^_ ]+"]))

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


def exact(value: float | None) -> str:
    """All digits that a float has; `-` for None."""
    return "-" if value is None else repr(value)


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


def percent(share: float) -> str:
    """A share as a percentage: `79.9 %`."""
    return f"{number(100 * share)} %"


def words(name: str) -> str:
    """A measure's name in legible words: `forget_rouge` is `forget ROUGE`, `muse.privleak` is `PrivLeak (muse)`."""
    suite, _, plain = name.rpartition(".")
    spelled = " ".join(_SPELLED.get(word, word) for word in _WORD.findall(plain))
    return one_line(f"{spelled} ({suite})" if suite else spelled)


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


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted key, legible text of the value)."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            lines = [", ".join(f"{name} {told}" for name, told in flat(item)) for item in value]
            yield legible(f"{prefix}{key}"), "\n".join(lines)
        else:
            yield (
                legible(f"{prefix}{key}"),
                legible(value if isinstance(value, str) else json.dumps(value, default=str)),
            )
