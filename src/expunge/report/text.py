"""How numbers, measure names and foreign text are written in every report."""

import json
import re
from collections.abc import Mapping
from typing import Any

from expunge.core.format import legible, number, one_line, power_of_ten
from expunge.core.nested import flattened
from expunge.results.measures import direction_text, interval_text, value_text

__all__ = [
    "direction_text",
    "exact",
    "flat",
    "interval_text",
    "legible",
    "listed",
    "number",
    "one_line",
    "p_text",
    "percent",
    "points",
    "power_of_ten",
    "value_text",
    "words",
]

TINY = 0.001
"""A p-value below which only that is told."""
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


def exact(value: float | None) -> str:
    """All digits that a float has; `-` for None."""
    return "-" if value is None else repr(value)


def percent(share: float) -> str:
    """A share as a percentage: `79.9 %`."""
    return f"{number(100 * share)} %"


def p_text(p: float) -> str:
    """A p-value; of a tiny one only that it is tiny."""
    return f"below {TINY:.3f}" if p < TINY else number(p)


def points(change: float) -> str:
    """A change of a share in percentage points with its sign: `+12`, `−3`, `0`."""
    rounded = round(100 * change)
    return f"+{rounded}" if rounded > 0 else f"−{-rounded}" if rounded < 0 else "0"


def words(name: str) -> str:
    """A measure's name in legible words: `forget_rouge` is `forget ROUGE`, `muse.privleak` is `PrivLeak (muse)`."""
    suite, _, plain = name.rpartition(".")
    spelled = " ".join(_SPELLED.get(word, word) for word in _WORD.findall(plain))
    return one_line(f"{spelled} ({suite})" if suite else spelled)


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as legible text by dotted key."""
    return {legible(key): legible(_text(value)) for key, value in flattened(settings).items()}


def _text(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return "\n".join(", ".join(f"{name} {text}" for name, text in flat(item).items()) for item in value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
