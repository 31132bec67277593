"""Earlier requests of a model line: whose rows are forgotten again, tested again, and come back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import expunge
import made_run
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.record.earlier import IN_PART, Earlier, earlier_requests, retested
from expunge.results.attacked import Attacked

ROWS = made_run.CORPUS["forget"]
FIRST = Corpus({"forget": ROWS[:2]}, "first")
BOTH = Corpus({"forget": (*ROWS[2:], *ROWS[:2])}, "both")
"""As a run that goes on has them: the new rows, then those of the request before."""


def line(folder: Path) -> tuple[Path, Path]:
    """A run with its record, and one that began with its result."""
    first = made_run.run(folder / "first", start="xxh3:0", result="xxh3:1", data=FIRST.about("forget"))
    expunge.record(first, request="REQ-1", corpus=FIRST)
    after = made_run.run(
        folder / "second", start="xxh3:1", result="xxh3:2", start_model=str(first), data=BOTH.about("forget")
    )
    return first, after


def attacked(*leaking: int) -> Attacked:
    values = tuple(0.9 if fact in leaking else 0.0 for fact in range(len(BOTH["forget"])))
    return made_run.attacked({"sampling": values}, model="xxh3:2", corpus=BOTH)


def made(run: Path, **more: Any) -> dict[str, Any]:
    return dict(expunge.record(run, request="REQ-2", corpus=BOTH, overwrite=True, **more).predicate)


def test_the_record_says_of_each_earlier_request_whether_it_came_back(tmp_path: Path) -> None:
    _, run = line(tmp_path)
    told = made(run, attacked=attacked(0))  # a new row leaks, no earlier one
    (entry,) = told["earlier_requests"]
    assert (entry["request"], entry["run"], entry["rows"], entry["here"]) == ("REQ-1", "first", 2, 2)
    assert (entry["tested"], entry["leaking"], entry["status"]) == (2, 0, "nothing came back")
    assert not any("earlier" in sentence for sentence in (*told["limits"], *told["residual_risk"]))
    told = made(run, attacked=attacked(5))
    assert told["earlier_requests"][0]["status"] == "came back" and told["verdict"]["text"] == "RESIDUAL"
    assert "The earlier request REQ-1 came back: 1 of its 2 rows leak." in told["residual_risk"]


def test_rows_that_were_not_attacked_again_are_no_proof(tmp_path: Path) -> None:
    first, run = line(tmp_path)
    told = made(run)
    assert told["earlier_requests"][0]["status"] == "not tested again"
    assert "2 of its 2 rows had no value in any attack" in told["limits"][-1]
    salt = first.with_name("first.salt")
    salt.rename(tmp_path / "elsewhere")
    told = made(run, attacked=attacked())
    assert "its salt, first.salt, is not beside its run folder" in told["limits"][-1]
    run_salt = run.with_name("second.salt")
    salt.write_text(run_salt.read_text())
    with pytest.raises(ExpungeError, match="is not that of the record in"):
        made(run, attacked=attacked())


def test_a_request_whose_rows_are_left_out_is_not_retested(tmp_path: Path) -> None:
    first, _ = line(tmp_path)
    new = Corpus({"forget": ROWS[2:]}, "new")
    run = made_run.run(
        tmp_path / "alone", start="xxh3:1", result="xxh3:3", start_model=str(first), data=new.about("forget")
    )
    told = expunge.record(run, request="REQ-2", corpus=new).predicate
    assert told["earlier_requests"][0]["here"] == 0
    assert "2 of its 2 rows are not in the forget set of this run" in told["limits"][-1]


def test_a_row_belongs_to_the_first_request_that_named_it(tmp_path: Path) -> None:
    _, second = line(tmp_path)
    made(second)
    third = made_run.run(
        tmp_path / "third", start="xxh3:2", result="xxh3:4", start_model=str(second), data=BOTH.about("forget")
    )
    told = expunge.record(third, request="REQ-3", corpus=BOTH).predicate["earlier_requests"]
    assert [(one["request"], one["rows"], one["here"]) for one in told] == [("REQ-1", 2, 2), ("REQ-2", 4, 4)]


def test_the_baseline_is_that_of_the_new_rows(tmp_path: Path) -> None:
    _, run = line(tmp_path)
    before = made_run.evaluation("xxh3:1", forget_probability=0.5)
    values = (0.9, 0.8, 0.7, 0.6, 0.01, 0.02)  # the last two are those that the start model was made to forget
    measures = {"forget_probability": replace(before["forget_probability"], per_example=values)}
    about = {**before.about, "inputs": {"model": "xxh3:1", "data.forget": BOTH.fingerprint("forget")}}
    told = made(run, start=replace(before, measures=measures, about=about))["baseline"]
    assert told["value"] == pytest.approx(0.75) and told["n"] == 4 and told["known"]


def test_a_request_that_is_tested_in_part_is_not_retested() -> None:
    found = made_run.attacked({})
    column = found["sampling"]
    assert column.leak is not None
    part = replace(column, leak=replace(column.leak, facts=(0, 1), values=(0.0, 0.9)), control=None)
    (entry,) = retested([Earlier("R", "run", "d", 3, facts=(0, 1, 2))], replace(found, columns=(part,)))
    assert (entry["tested"], entry["leaking"], entry["status"]) == (2, 1, "came back")
    asked = replace(found, columns=(found["plain"],))  # asking the question itself is no attack
    (entry,) = retested([Earlier("R", "run", "d", 3, facts=(0, 1, 2))], asked)
    assert (entry["tested"], entry["status"]) == (0, "not tested again")
    (entry,) = retested([Earlier("R", "run", "d", 3, facts=(0, 2, 3))], replace(found, columns=(part,)))
    assert (entry["tested"], entry["status"]) == (1, IN_PART)
    assert entry["note"] == "2 of its 3 rows had no value in any attack"


def test_an_attack_that_leaked_then_must_be_run_again() -> None:
    found = made_run.attacked({})
    (entry,) = retested([Earlier("R", "run", "d", 2, facts=(0, 1), leaked=("prompts.french", "sampling"))], found)
    assert entry["status"] == IN_PART
    assert entry["note"] == "it leaked under prompts.french then, and that was not run again"
    (entry,) = retested([Earlier("R", "run", "d", 2, facts=(0, 1), leaked=("sampling",))], found)
    assert entry["status"] == "nothing came back"


def test_what_leaked_is_read_from_the_earlier_record(tmp_path: Path) -> None:
    first = made_run.run(tmp_path / "first", start="xxh3:0", result="xxh3:1")
    values = made_run.attacked({"prompts.french": (0.9,) * 6}, model="xxh3:1")
    expunge.record(first, request="REQ-1", corpus=made_run.CORPUS, attacked=values)
    (found,) = earlier_requests(first, made_run.CORPUS["forget"])
    assert found.leaked == ("prompts.french",) and found.facts == tuple(range(6))
