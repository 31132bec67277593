"""Errors that say what was asked, what came, and what to do."""

import difflib
import math
import os
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

MOST_LISTED = 25
"""Known names that an error lists although it names the nearest one."""


class ExpungeError(ValueError):
    """Something that the caller can mend; the command line shows its text without a traceback."""


def nearest(name: str, known: Iterable[str], *, n: int = 1) -> list[str]:
    """The known names most like `name`, best first; empty when none is near."""
    plain = {k.lower().replace("-", "_"): k for k in known}
    asked = name.lower().replace("-", "_")
    initials = [k for k in plain if asked == "".join(word[:1] for word in k.split("_"))]
    found = [*initials, *difflib.get_close_matches(asked, plain, n=n, cutoff=0.6)][:n]  # "lr" for "learning_rate"
    if not found:  # an abbreviation or a longer form, "ascent" for "grad_ascent"
        found = [k for k in plain if asked and (asked in k or k in asked)][:n]
    return [plain[k] for k in found]


def folders_with(folder: Path, *files: str) -> list[str]:
    """Names of the folders in a folder, which may be missing, that hold one of these files."""
    inside = folder.iterdir() if folder.is_dir() else ()
    return [path.name for path in inside if any((path / name).is_file() for name in files)]


def near_folder(missing: Path, *files: str) -> str:
    """Where a folder of nearly that name holds one of these files: a question after it, to end an error with."""
    near = difflib.get_close_matches(missing.name, folders_with(missing.parent, *files), n=1)
    return f" Did you mean '{missing.parent / near[0]}'?" if near else ""


def unknown(what: str, name: str, known: Iterable[str], *, came_from: str = "", hint: str = "") -> ExpungeError:
    """An error for a name that nobody knows, with a hint, else the nearest known one, and the list.

    A long list is left out where a near name or a hint says enough.
    """
    known = sorted(known)
    near = [] if hint else nearest(name, known)
    hint = f" {hint}" if hint else f" Did you mean '{near[0]}'?" if near else ""
    origin = f" (from {came_from})" if came_from else ""
    listed = "" if hint and len(known) > MOST_LISTED else f" Known: {', '.join(known) or 'none'}."
    return ExpungeError(f"no {what} is called '{name}'{origin}.{hint}{listed}")


def require(condition: bool, message: str) -> None:
    """Raise an `ExpungeError` with `message` unless `condition` holds."""
    if not condition:
        raise ExpungeError(message)


def require_type(name: str, value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Raise unless a value is of one of these types; `what` says them: `a loaded mask or its file`."""
    if not isinstance(value, kinds):
        raise ExpungeError(f"{name} must be {what}; got {value!r:.80}.")


def require_names(name: str, values: object) -> None:
    """Raise unless it is a list of texts; a single text is none."""
    if isinstance(values, str) or not isinstance(values, Iterable) or not all(isinstance(v, str) for v in values):
        raise ExpungeError(f"{name} must be a list of names, such as ['first', 'second']; got {values!r:.80}.")


def path_of(name: str, value: object) -> Path:
    """A path that came as text or as a path; `name` is what it is called where it came from."""
    if not isinstance(value, str | os.PathLike):
        raise ExpungeError(f"{name} must be a path; got {value!r}.")
    return Path(value)


def require_number(name: str, value: object) -> None:
    """Raise unless `value` is a number; True and False are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ExpungeError(f"{name} must be a number; got {value!r}.")


def require_finite(name: str, value: float) -> None:
    """Raise for what is no number, and for infinity; NaN is left to the check of its size."""
    require_number(name, value)
    if math.isinf(value):
        raise ExpungeError(f"{name} must be a finite number; got {value!r}.")


def require_positive(name: str, value: float, *, hint: str = "") -> None:
    """Raise unless `value` is finite and above 0; written so that NaN fails too."""
    require_finite(name, value)
    if not value > 0:
        raise ExpungeError(f"{name} must be above 0; got {value!r}.{' ' + hint if hint else ''}")


def require_at_least(name: str, value: float, least: float, *, hint: str = "") -> None:
    """Raise unless `value` is finite and `least` or more; written so that NaN fails too."""
    require_finite(name, value)
    if not value >= least:
        raise ExpungeError(f"{name} must be at least {least}; got {value!r}.{' ' + hint if hint else ''}")


def require_between(name: str, value: float, low: float, high: float, *, hint: str = "") -> None:
    """Raise unless `value` is in [low, high]; written so that NaN fails too."""
    require_number(name, value)
    if not low <= value <= high:
        raise ExpungeError(f"{name} must be between {low} and {high}; got {value!r}.{' ' + hint if hint else ''}")


def require_bits(bits: int | None) -> None:
    """Raise unless it is a number of bits that a model's weights can be loaded in, or None."""
    if bits not in (None, 4, 8):
        raise ExpungeError(f"bits must be 8 or 4; got {bits}.")
