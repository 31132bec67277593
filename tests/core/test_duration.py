"""Lengths of time as people write them."""

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.duration import seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2h", 7200), ("30min", 1800), ("30 m", 1800), ("90s", 90), ("1h 30min", 5400), ("1h30m5s", 5405), ("0.5h", 1800)],
)
def test_lengths_of_time(text: str, wanted: float) -> None:
    assert seconds(text, "budget") == wanted


@pytest.mark.parametrize("text", ["", "soon", "0", "45", "-5", "h", "2w", "nan", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ExpungeError, match="wait must be a length of time, such as 2h"):
        seconds(text, "wait")
