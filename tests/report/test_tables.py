import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
from rich.console import Console

from expunge.core.checks import ExpungeError
from expunge.evaluation.views import no_records
from expunge.report.tables import Table, comparison, escape_markdown, html, markdown, terminal
from expunge.results.measures import DEFAULT_AUC, Direction, Evaluation, Measure


def measure(value: float | None, better: Direction = "lower", **more: object) -> Measure:
    known = {
        "definition": "as written",
        "source": "nowhere",
        "n": 10,
        "note": "" if value is not None else "not to be had",
    }
    return Measure(value=value, better=better, **(known | more))  # type: ignore[arg-type]


def small(**values: Measure) -> Evaluation:
    return Evaluation(measures=values)


def test_rows_are_models_and_columns_are_grouped(models: list[Evaluation]) -> None:
    table = comparison(models[::-1], start="start", retain="retain")
    assert [row.label for row in table.rows] == ["start", "retain", "SimNPO", "NPO", "GradDiff", "GradAscent"]
    assert [group for group, _ in table.groups] == ["forget set", "retain set", "utility", "membership"]
    names = [column.name for column in table.header]
    assert names[:3] == ["forget_probability", "forget_rouge", "forget_extraction_strength"]
    assert names[4:6] == ["forget_quality", "retain_probability"]
    assert names[9:] == ["model_utility", "mia_min_k", "privleak"]
    assert [column.title for column in table.header[:2]] == ["probability", "ROUGE"]
    assert [table.header[i].arrow for i in (0, 4, 10)] == ["↓", "↑", "→ 0.512"]


def test_every_value_and_interval_is_its_measure(models: list[Evaluation]) -> None:
    table = comparison(models)
    for evaluation, row in zip(models, table.rows, strict=True):
        for column, cell in zip(table.header, row.cells, strict=True):
            assert cell.value == evaluation[column.name].value
            assert cell.interval == evaluation[column.name].interval


def test_best_follows_the_direction() -> None:
    given = [
        small(a=measure(0.2), b=measure(0.2, "higher"), c=measure(0.1, "near", target=0.5)),
        small(a=measure(0.3), b=measure(0.3, "higher"), c=measure(0.8, "near", target=0.5)),
        small(a=measure(0.4), b=measure(0.1, "higher"), c=measure(0.9, "near", target=0.5)),
    ]
    # Away from 0.5: 0.4, 0.3, 0.4.
    best = [[cell.best for cell in row.cells] for row in comparison(given).rows]
    assert best == [[True, False, False], [False, True, True], [False, False, False]]


def test_best_is_shared_on_a_tie_and_absent_where_all_are_equal_or_alone() -> None:
    def marked(*values: float | None) -> list[bool]:
        return [row.cells[0].best for row in comparison([small(a=measure(value)) for value in values]).rows]

    assert marked(0.1, 0.1, 0.2) == [True, True, False]
    assert marked(0.1, 0.1) == [False, False]
    assert marked(0.1) == [False]
    assert marked(0.1, None, float("nan")) == [False, False, False]


NEAR = {"better": "near", "target": 0.5}
RANGES = {
    "apart": ({"better": "lower"}, [(0.1, 0.05, 0.15), (0.2, 0.16, 0.24)], [True, False]),
    "overlapping": ({"better": "lower"}, [(0.1, 0.05, 0.17), (0.2, 0.16, 0.24)], [False, False]),
    "higher apart": ({"better": "higher"}, [(0.1, 0.05, 0.15), (0.2, 0.16, 0.24)], [False, True]),
    "higher overlapping": ({"better": "higher"}, [(0.1, 0.05, 0.17), (0.2, 0.16, 0.24)], [False, False]),
    "the third overlaps": (
        {"better": "lower"},
        [(0.1, 0.05, 0.15), (0.2, 0.16, 0.24), (0.3, 0.1, 0.5)],
        [False, False, False],
    ),
    # Apart, and equally far from the target: .08 to .12 and .09 to .13.
    "on two sides of the target": (NEAR, [(0.4, 0.38, 0.42), (0.61, 0.59, 0.63)], [False, False]),
    # The first holds the target: its distance reaches from 0 to .05.
    "around the target": (NEAR, [(0.5, 0.45, 0.55), (0.57, 0.56, 0.58)], [True, False]),
    "tied, and apart from the rest": (
        {"better": "lower"},
        [(0.1, 0.05, 0.15), (0.1, 0.05, 0.15), (0.2, 0.16, 0.24)],
        [True, True, False],
    ),
}


@pytest.mark.parametrize(("way", "ranges", "expected"), RANGES.values(), ids=RANGES)
def test_best_is_marked_only_where_its_interval_overlaps_no_other(
    way: dict[str, object], ranges: list[tuple[float, float, float]], expected: list[bool]
) -> None:
    given = [small(a=measure(value, interval=(low, high), **way)) for value, low, high in ranges]
    assert [row.cells[0].best for row in comparison(given).rows] == expected


def test_start_and_retain_model_are_never_best(models: list[Evaluation]) -> None:
    table = comparison(models, start="start", retain="retain")
    assert not any(cell.best for row in table.rows[:2] for cell in row.cells)
    quality = [column.name for column in table.header].index("forget_quality")
    assert [row.label for row in table.rows if row.cells[quality].best] == ["NPO"]
    assert [row.label for row in comparison(models).rows if row.cells[quality].best] == ["retain"]


def test_chance_stands_beside_the_direction() -> None:
    table = comparison([small(a=measure(v, "higher", details={"chance": 0.25})) for v in (0.3, 0.4)])
    assert table.header[0].arrow == "↑ chance 0.25" and table.header[0].direction == "higher is better; chance is 0.25"
    unlike = comparison([small(a=measure(0.3, "higher", details={"chance": c})) for c in (0.25, 0.5)])
    assert (unlike.header[0].arrow, unlike.header[0].direction) == ("↑", "higher is better")
    near = {"better": "near", "target": 0.25, "details": {"chance": 0.25}}
    assert comparison([small(a=measure(0.3, **near))]).header[0].arrow == "→ 0.25"


def test_directions_that_disagree_mark_nothing() -> None:
    table = comparison([small(a=measure(0.1)), small(a=measure(0.2, "higher"))])
    assert table.header[0].better is None and table.header[0].arrow == ""
    assert not any(row.cells[0].best for row in table.rows)


def test_missing_values_show_a_dash_and_their_reason_once(models: list[Evaluation]) -> None:
    short = Evaluation(measures={"forget_rouge": models[0]["forget_rouge"]}, label="short")
    table = comparison([*models, short])
    cells = {(row.label, column.name): row.cells[i] for row in table.rows for i, column in enumerate(table.header)}
    notes = dict(table.notes)
    assert cells["SimNPO", "privleak"].text == "-"
    assert notes[cells["SimNPO", "privleak"].mark] == models[-1]["privleak"].note
    assert cells["short", "privleak"].text == "-"
    assert notes[cells["short", "privleak"].mark] == "Not measured for this model."
    assert cells["short", "forget_rouge"].mark == ""
    # A value can carry a note too, and equal notes share a letter.
    assert cells["GradAscent", "mia_min_k"].mark == cells["GradDiff", "mia_min_k"].mark != ""
    assert [letter for letter, _ in table.notes] == ["a", "b", "c"]


def test_the_retain_model_is_not_told_to_lack_a_retain_model() -> None:
    default = measure(0.5, note=f"{DEFAULT_AUC} The forget set is recognizably memorized.")
    given = [Evaluation(measures={"mia_loss": default}, label=label) for label in ("never", "npo")]
    table = comparison(given, retain="never")
    notes = [dict(table.notes)[row.cells[0].mark] for row in table.rows]
    assert notes[0].startswith("This is the retain model; here it is compared with an AUC of 0.5. The forget set is")
    assert notes[1].startswith(DEFAULT_AUC)


def test_start_and_retain_model_are_not_told_to_be_compared_with_themselves() -> None:
    def model(label: str, whose: Literal["start", "reference"]) -> Evaluation:
        missing = f"forget_quality: {no_records(whose)}."
        return Evaluation(measures={"forget_quality": measure(None, note=missing)}, label=label)

    given = [model("before", "start"), model("never", "reference"), model("npo", "reference")]
    table = comparison(given, start="before", retain="never")
    notes = [dict(table.notes)[row.cells[0].mark] for row in table.rows]
    assert notes[:2] == [f"This compares with the {role} model, which this one is." for role in ("start", "retain")]
    assert notes[2] == given[2]["forget_quality"].note
    other = comparison(given[:1], retain="before")  # what it lacks are records of another model than itself
    assert dict(other.notes)[other.rows[0].cells[0].mark] == given[0]["forget_quality"].note


def test_letters_go_on_after_z() -> None:
    table = comparison([small(**{f"m{i}": measure(None, note=f"reason {i}") for i in range(54)})])
    assert [letter for letter, _ in table.notes][24:28] == ["y", "z", "aa", "ab"]
    assert table.notes[-1] == ("bb", "reason 53")


def test_a_choice_of_measures_keeps_its_order_within_groups(models: list[Evaluation]) -> None:
    table = comparison(models, measures=["model_utility", "forget_rouge", "forget_probability"])
    assert [column.name for column in table.header] == ["forget_rouge", "forget_probability", "model_utility"]
    with pytest.raises(ExpungeError, match=r"is called 'forget_ruoge'\. Did you mean 'forget_rouge'"):
        comparison(models, measures=["forget_ruoge"])


def test_names_that_suites_define_differently_get_columns_of_their_own(make_model: Callable[..., Evaluation]) -> None:
    ours = make_model("NPO")
    quality = replace(ours["forget_quality"], definition="share of probability removed", value=0.93)
    theirs = Evaluation(
        measures={"forget_quality": quality, "forget_rouge": ours["forget_rouge"]}, suite="unlearun", label="x"
    )
    table = comparison([ours, theirs], measures=["forget_quality", "forget_rouge"])
    assert [column.name for column in table.header] == [
        "tofu.forget_quality",
        "unlearun.forget_quality",
        "forget_rouge",
    ]
    assert [column.title for column in table.header] == ["quality (tofu)", "quality (unlearun)", "ROUGE"]
    assert [[cell.text for cell in row.cells[:2]] for row in table.rows] == [["0.13", "-"], ["-", "0.93"]]


def test_a_name_that_one_suite_defines_in_two_ways_is_numbered() -> None:
    given = [
        small(a=measure(0.1)),
        small(a=measure(0.2, definition="another")),
        small(a=measure(None, definition="third")),
    ]
    table = comparison(given)
    assert [column.name for column in table.header] == ["a (1)", "a (2)"]
    # What is not available stands in the first column, whatever definition it names.
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["0.1", "-"], ["-", "0.2"], ["-", "-"]]
    assert [note for _, note in table.notes] == ["Not measured for this model.", "not to be had"]


def test_what_could_not_be_had_does_not_blur_the_direction() -> None:
    table = comparison([small(a=measure(0.1)), small(a=measure(None, "higher")), small(a=measure(0.2))])
    assert table.header[0].better == "lower" and table.rows[0].cells[0].best


def test_groups_of_a_whole_suite_and_their_blocks() -> None:
    names = [
        "forget_a",
        "forget_b",
        "retain_a",
        "model_utility",
        "mia_loss",
        "privleak",
        "real_authors_x",
        "world_facts_x",
        "x",
    ]
    table = comparison([small(**{name: measure(0.5) for name in reversed(names)})])
    assert [(group, len(places)) for group, places in table.groups] == [
        ("forget set", 2),
        ("retain set", 1),
        ("utility", 1),
        ("membership", 2),
        ("real authors", 1),
        ("world facts", 1),
        ("other", 1),
    ]
    assert [column.title for column in table.header[-3:]] == ["x", "x", "x"]
    blocks = [[len(places) for _, places in block] for block in table.blocks(3)]
    assert blocks == [[2, 1], [1, 2], [1, 1, 1]]
    assert [[len(places) for _, places in block] for block in table.blocks(1)] == [[2], [1], [1], [2], [1], [1], [1]]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_holds_every_cell(models: list[Evaluation]) -> None:
    table = comparison(models, start="start", retain="retain")
    lines = markdown(table).splitlines()
    grid = [cells_of(line) for line in lines if line.startswith("|")]
    assert {len(line) for line in grid} == {13}
    assert {len(line) for line in lines if line.startswith("|")} == {len(lines[0])}
    assert [line[0] for line in grid[2:]] == [row.label for row in table.rows]
    for line, row in zip(grid[2:], table.rows, strict=True):
        for text, cell in zip(line[1:], row.cells, strict=True):
            found = re.fullmatch(r"(\*\*)?(\S+?)(\*\*)?(?: \((\S+)\))?(?: \[\^(\w+)\])?", text)
            assert found and found[2] == cell.text and bool(found[1]) == cell.best
            assert (found[4] or "") == cell.interval_text and (found[5] or "") == cell.mark
    assert all(f"[^{letter}]: " in markdown(table) for letter, _ in table.notes)


def test_markdown_makes_foreign_text_inert() -> None:
    assert escape_markdown("a|b `c` *d* <i> [x](y) \\ grad_diff _e_\nf") == (
        "a\\|b \\`c\\` \\*d\\* &lt;i&gt; \\[x\\](y) \\\\ grad_diff \\_e\\_ f"
    )
    text = markdown(comparison([small(a=measure(1.0, note="<b>|")).labeled("x | y\n| z")]))
    assert cells_of(text.splitlines()[2]) == ["x \\| y \\| z", "1 [^a]"]
    assert "[^a]: &lt;b&gt;\\|" in text


def drawn(table: Table, width: int, intervals: bool = False) -> str:
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(terminal(table, intervals=intervals))
    return capture.get()


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
@pytest.mark.parametrize("intervals", [False, True])
def test_the_terminal_never_cuts_a_number(models: list[Evaluation], width: int, intervals: bool) -> None:
    chosen = comparison(
        models, measures=["forget_rouge", "forget_quality", "retain_rouge", "model_utility", "privleak"]
    )
    text = drawn(chosen, width, intervals)
    for row in chosen.rows:
        for cell in row.cells:
            assert re.search(rf"(?<![\w.]){re.escape(cell.text)}(?![\w.])", text)
            assert not intervals or cell.interval_text in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_the_terminal_cuts_between_groups_where_it_must(models: list[Evaluation]) -> None:
    table = comparison(models)
    assert drawn(table, 160).count("GradDiff") == 1
    assert drawn(table, 80).count("GradDiff") == 3  # forget | retain, utility | membership


@pytest.mark.parametrize("intervals", [False, True])
def test_the_terminal_cuts_a_group_that_is_too_wide(models: list[Evaluation], intervals: bool) -> None:
    names = [f"forget_measure_number_{number}" for number in range(12)]
    wide = [replace(m, measures={name: m["forget_rouge"] for name in names}) for m in models]
    text = drawn(comparison(wide), 80, intervals)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert all(text.count(f" {number}") for number in range(12)) and text.count("GradDiff") > 1


def test_the_terminal_takes_labels_as_text() -> None:
    text = drawn(comparison([small(a=measure(0.5)).labeled("[red]x[/red] \x1b[31m")]), 80)
    assert "[red]x[/red] \u241b[31m" in text and "\x1b" not in text


def test_html_escapes_and_names_directions(models: list[Evaluation]) -> None:
    text = html(comparison([models[0].labeled("<script>"), models[1]]))
    assert "<script" not in text and "&lt;script&gt;" in text
    assert 'title="nearer to 0 is better"' in text and 'title="lower is better"' in text
