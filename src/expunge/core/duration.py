"""Lengths of time as people write them."""

import re

from expunge.core.checks import ExpungeError

_WRITTEN = re.compile(r"(?:([\d.]+)\s*h)?\s*(?:([\d.]+)\s*m(?:in)?)?\s*(?:([\d.]+)\s*s)?")


def seconds(text: str, name: str) -> float:
    """A length of time in seconds: `2h`, `1h 30min`, `45s`.

    Args:
        text: as it is written; a number without a unit is none.
        name: the setting that holds it, for the message.

    Raises:
        ExpungeError: it is none, or not above 0.
    """
    found = _WRITTEN.fullmatch(text.strip())
    try:
        hours, minutes, rest = (float(part or 0) for part in (found.groups() if found else ("", "", "")))
    except ValueError:  # 1.2.3h
        hours = minutes = rest = 0.0
    total = 3600 * hours + 60 * minutes + rest
    if not total > 0:
        raise ExpungeError(f"{name} must be a length of time, such as 2h, 30min or 90s; got {text!r}.")
    return total


def lasting(seconds: float) -> str:
    """A length of time in words, of two digits or so."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
