import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.report.text import (
    flat,
    interval_text,
    legible,
    listed,
    number,
    one_line,
    percent,
    power_of_ten,
    value_text,
    words,
)
from expunge.results.measures import Measure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0900001, "0.09"),
        (0.1234, "0.123"),
        (0.9996, "1"),
        (1.0, "1"),
        (0.0, "0"),
        (-0.0, "0"),
        (13.25, "13.2"),
        (99.96, "100"),
        (-99.45739, "-99.5"),
        (5215.4, "5215"),
        (1234567.0, "1.23e6"),
        (0.001, "0.001"),
        (0.00099, "9.9e-4"),
        (3.905471357e-22, "3.91e-22"),
        (9.999e-5, "1e-4"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_a_number_reads_back_to_three_digits(value: float) -> None:
    # Half a unit in the third digit is at most 0.5 % of the value.
    assert float(number(value)) == pytest.approx(value, rel=0.00501, abs=1e-310)


@pytest.mark.parametrize(("log10", "text"), [(-400.5, "3.16e-401"), (-500.0, "1e-500"), (-330.0001, "1e-330")])
def test_power_of_ten(log10: float, text: str) -> None:
    # 10^-400.5 = 10^0.5 * 10^-401 = 3.162e-401; 10^-330.0001 = 0.99977 * 10^-330 = 9.9977e-331, rounded up 1e-330.
    assert power_of_ten(log10) == text


def test_a_p_value_that_underflowed_is_written_from_its_logarithm() -> None:
    known = {"better": "higher", "definition": "p", "source": "", "n": 400}
    assert value_text(Measure(value=0.0, details={"log10_p": -400.5}, **known)) == "3.16e-401"
    assert value_text(Measure(value=0.0, **known)) == "0"
    assert value_text(Measure(value=2.5e-5, details={"log10_p": -4.602}, **known)) == "2.5e-5"
    assert value_text(Measure(value=None, note="no retain model", **known)) == "-"


def test_intervals_keep_minus_and_dash_apart() -> None:
    assert interval_text((0.31, 0.3601)) == "0.31–0.36"
    assert interval_text((-0.2, 0.1)) == "-0.2 – 0.1"
    assert interval_text(None) == ""


def test_words() -> None:
    assert words("forget_rouge") == "forget ROUGE"
    assert words("mia_min_k") == "MIA Min-K"
    assert words("mia_min_k_plus_plus") == "MIA Min-K plus plus"
    assert words("min_knowledge") == "min knowledge"
    assert words("forget_rouge (2)") == "forget ROUGE (2)"
    assert words("unlearun.forget_quality") == "forget quality (unlearun)"


def test_legible_leaves_ordinary_text_alone() -> None:
    text = "Ærø, 東京 👩\u200d🔬 «x»\n\tO'Neil & <b>"
    assert legible(text) == text


def test_legible_shows_what_cannot_be_seen_or_stored() -> None:
    shown = legible("a\x00b\x1b[31m\x7f\x85\u202ec\ud800\uffff\r\nd")
    assert shown == "a\u2400b\u241b[31m\u2421\ufffd\u27e8U+202E\u27e9c\ufffd\ufffd\nd"


@given(st.text(st.characters(exclude_categories=[])))
def test_legible_text_can_be_stored_and_stays_as_it_is(text: str) -> None:
    shown = legible(text)
    shown.encode("utf-8")
    assert legible(shown) == shown
    assert all(char in "\n\t" or ord(char) >= 0x20 for char in shown)
    assert "\n" not in one_line(text)


def test_lists_percentages_and_nested_settings() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert percent(0.79912) == "79.9 %"
    nested = {"seed": 0, "template": {"question": "Q: ", "stop": ["\n"]}, "empty": {}, "none": None}
    told = [
        ("seed", "0"),
        ("template.question", "Q: "),
        ("template.stop", '["\\n"]'),
        ("empty", "{}"),
        ("none", "null"),
    ]
    assert list(flat(nested).items()) == told
    assert flat({"probes": [{"split": "a", "n": 1}, {"split": "b"}]}) == {"probes": "split a, n 1\nsplit b"}
