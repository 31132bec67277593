"""The page that says which method when holds the numbers of its sources, and what it advises follows from them."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/which-method.md"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/make_which_method.py"))


def test_the_page_is_up_to_date(made: dict[str, Any]) -> None:
    assert PAGE.read_text() == made["page"](), "run: python docs/make_which_method.py"


def test_each_number_of_a_table_stands_in_its_source(made: dict[str, Any]) -> None:
    cost = (ROOT / "docs/cost.md").read_text()
    for row in made["short_runs"]():
        line = next(x for x in cost.splitlines() if x.startswith(f"| {row['method']} {row['settings']} |"))
        assert f"/ 0{row['forget ES']} |" in line or f"/ {row['forget ES']} |" in line
        assert f"/ 0{row['retain ES']} |" in line or f"/ {row['retain ES']} |" in line
    attacks, real, loku = ((ROOT / f"docs/experiments/{name}.md").read_text() for name in ("attacks", "real", "loku"))
    for row in made["attacked"]():
        for name in ("forget ES", "after relearning", "retain model after it"):
            assert row[name] in attacks, row
    for row in made["real"]():
        assert all(row[name] in real for name in ("forget ES", "retain ES", "facts kept", "perplexity")), row
    for row in made["adapters"]():
        assert f"| {row['forget ES']} | {row['retain ES']} |" in loku and row["method and rate"] in loku


def test_the_page_about_cost_holds_what_is_stored(made: dict[str, Any]) -> None:
    lines = [row for row in made["table_with"]("cost.md", "method and settings", "seeds")]
    for run in made["stored"]("quality")["rows"]:
        settings, mean = run["settings"], run["mean"]
        rate = re.sub("e-0", "e-", f"{settings['learning_rate']:.0e}")
        cells = [
            f"{mean[f'{name}_probability']:.3f} / {mean[f'{name}_extraction_strength']:.3f}"
            for name in ("forget", "retain")
        ]
        found = [
            line
            for line in lines
            if line["method and settings"].startswith(f"{settings['method']} {rate}")
            and [line["forget P / ES"], line["retain P / ES"]] == cells
        ]
        assert len(found) == 1 and found[0]["seeds"] == str(len(run["seeds"])), (settings, cells)


def test_what_is_advised_follows_from_the_numbers(made: dict[str, Any]) -> None:
    short = {row["method"]: row for row in made["short_runs"]()}
    after = {(row["model"], row["method"]): row for row in made["attacked"]()}
    real = {row["method"]: row for row in made["real"]()}

    def value(row: dict[str, str], name: str) -> float:
        return float(re.sub(r" .*", "", row[name].strip("*")))

    never = made["stored"]("real")["levels"]["retain model"]["forget_extraction_strength"]
    by_nearness = sorted(real, key=lambda name: abs(value(real[name], "forget ES") - never))
    forgot = [name for name in real if value(real[name], "forget ES") < 0.5]
    assert by_nearness[0] == "wga" == max(forgot, key=lambda name: value(real[name], "retain ES"))
    assert "js_uniform" not in forgot  # which is said of it
    assert min(after, key=lambda which: value(after[which], "after relearning")) == ("7 M", "undo")
    assert next(iter(short)) == "js_uniform"
    for pair in ((short["grad_diff"], short["wga"]), (real["grad_diff"], real["wga"])):
        assert value(pair[0], "retain ES") < value(pair[1], "retain ES")
    assert value(after["4.4 M", "grad_diff"], "retain ES") < value(after["4.4 M", "wga"], "retain ES")
    for model in ("4.4 M", "7 M"):
        own = {row["method and rate"]: row for row in made["adapters"]() if row["model"] == model}
        ihl = {name.replace("IHL, ", ""): value(row, "score") for name, row in own.items() if name.startswith("IHL, ")}
        lora, (whole,) = max(ihl.values()), [score for name, score in ihl.items() if name.startswith("all weights")]
        assert lora >= whole and lora == max(value(row, "score") for row in own.values())


def test_tables_of_pages_are_read_with_the_cells_above(made: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text\n\n| a | b |\n|---|---|\n| x | 1 |\n| | 2 |\n\n| c |\n|---|\n| 3 |\n")
    function = made["tables"]
    function.__globals__["DOCS"] = tmp_path
    try:
        assert function("a.md") == [
            (["a", "b"], [{"a": "x", "b": "1"}, {"a": "x", "b": "2"}]),
            (["c"], [{"c": "3"}]),
        ]
    finally:
        function.__globals__["DOCS"] = ROOT / "docs"


def test_the_score_is_a_harmonic_mean(made: dict[str, Any]) -> None:
    assert made["score"](0.5, 1.0) == pytest.approx(2 / 3) and made["score"](1.0, 0.0) == 0
    assert made["number"]([0.25, 0.5]) == ".375" and made["number"]([1.0]) == "1.000"
