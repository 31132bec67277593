"""How experiments write their numbers, and what they could not measure."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev

from expunge.core.format import number
from expunge.report.text import words


def shown(value: float | None, deviation: float | None = None) -> str:
    """A value, with its standard deviation where there is one: `0.51 ± 0.02`; `-` for none."""
    if value is None:
        return "-"
    return number(value) if deviation is None else f"{number(value)} ± {number(deviation)}"


def over_seeds(values: Sequence[float | None]) -> str:
    """Mean and standard deviation; `-` where a value is missing."""
    there = [value for value in values if value is not None]
    if len(there) < len(values) or not there:
        return "-"
    return shown(mean(there), stdev(there) if len(there) > 1 else None)


def left_out(missing: Mapping[str, str]) -> Iterable[str]:
    """Lines that say what could not be measured, those with one reason together.

    Args:
        missing: by name, the reason.
    """
    for why in dict.fromkeys(missing.values()):
        without = ", ".join(words(name) for name, reason in missing.items() if reason == why)
        yield f"no {without}: {why.removeprefix('Missing: ')}"
