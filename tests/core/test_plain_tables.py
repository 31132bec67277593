"""How an evaluation prints: notes below the table, the start model beside."""

from expunge.core.format import columns
from expunge.results.measures import Evaluation, Measure, evaluation_text

LONG = "Missing: no records of a retain model were given. Make them: expunge evaluate model=<retain model>."


def measure(value, note="", **details):
    return Measure(value=value, better="lower", definition="d", source="s", n=4, note=note, details=details)


def test_columns_are_as_wide_as_their_widest_cell():
    assert columns(("a", "n"), [("long", "1"), ("b", "10")], numeric=(1,)) == ["a      n", "long   1", "b     10"]


def test_long_notes_go_below_once_and_short_ones_stay():
    found = Evaluation({"one": measure(None, LONG), "two": measure(0.25, "short"), "three": measure(None, LONG)})
    assert str(found).splitlines() == [
        "model, suite default",
        "measure  value  95 % interval  better  n  note",
        "one          -                 lower   4  [1]",
        "two       0.25                 lower   4  short",
        "three        -                 lower   4  [1]",
        f"[1] {LONG} (one, three)",
    ]


def test_what_several_notes_say_stands_once_with_the_measures_it_concerns():
    setup = "The start model was measured in another way (dtype float32): the comparison is loose."
    found = Evaluation(
        {
            "one": measure(0.5, f"{setup} The forget set is recognizably memorized."),
            "two": measure(0.5, setup),
            "three": measure(None, f"Missing: 4 of 4 examples have no such column: add it; {LONG[9:]}"),
            **{f"more{i}": measure(None, LONG) for i in range(4)},
        }
    )
    lines = str(found).splitlines()
    assert [line.split()[-1] for line in lines[2:6]] == ["[1][2]", "[1]", "[3][4]", "[4]"]
    assert lines[9:] == [
        f"[1] {setup} (one, two)",
        "[2] The forget set is recognizably memorized. (one)",
        "[3] Missing: 4 of 4 examples have no such column: add it. (three)",
        f"[4] {LONG} (three, more0, more1 and 2 more)",
    ]


def test_the_start_model_has_a_column_where_it_is_known():
    found = Evaluation({"one": measure(0.5, start_value=0.75), "two": measure(0.5)})
    lines = evaluation_text(found).splitlines()
    assert lines[1].split()[:6] == ["measure", "value", "95", "%", "interval", "start"]
    assert lines[2].split() == ["one", "0.5", "0.75", "lower", "4"]
    assert lines[3].split() == ["two", "0.5", "-", "lower", "4"]
