"""Times as people write them: `90s`, `30m`, `2h`, `1h30m`, or seconds."""

import re

from expunge.core.checks import ExpungeError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


def seconds(text: str) -> float:
    """The seconds of a time.

    Raises:
        ExpungeError: no time, or one that is not above 0.
    """
    written = text.strip().lower()
    parts = _PART.findall(written)
    if "".join(number + unit for number, unit in parts) == written:
        found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            found = float(written)
        except ValueError:
            found = 0.0
    if not 0 < found < float("inf"):
        raise ExpungeError(f"a time is written as 90s, 30m, 2h or 1h30m, and above 0; got {text!r}.")
    return found
