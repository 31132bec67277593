"""Times as people write them."""

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.duration import seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1.5h", 5400),
        ("45", 45),
        (" 2H ", 7200),
    ],
)
def test_a_time_is_read(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "1h 30m", "h", "2w", "nan", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ExpungeError, match="a time is written as 90s"):
        seconds(text)
