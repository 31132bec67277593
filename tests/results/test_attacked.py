"""What attacks drew out: recovery above the control, intervals, leaking facts, and the file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.sealed import write_sealed
from expunge.results.attacked import OLD, Attacked, Column, Leak, Reached, load_attacked
from expunge.results.texts import text_hash


def leak(*values: float, name: str = "quantize.nf4", facts: tuple[int, ...] | None = None, needs: bool = False) -> Leak:
    return Leak(
        name=name,
        measure="extraction strength",
        facts=tuple(range(len(values))) if facts is None else facts,
        values=values,
        texts=tuple(f"text {v}" for v in values),
        needs_control=needs,
    )


def column(own: Leak | None, control: Leak | None, *, threshold: float = 0.2, name: str = "quantize.nf4") -> Column:
    return Column(name=name, leak=own, control=control, threshold=threshold)


def test_recovery_is_what_came_out_above_the_control_fact_by_fact() -> None:
    found = column(leak(0.5, 0.25, 1.0), leak(0.125, 0.5, 0.875))
    assert found.recovery == {0: 0.375, 1: -0.25, 2: 0.125}
    assert found.mean == pytest.approx(0.25 / 3) and found.status == "ran"
    assert found.leaking == (0,)
    low, high = found.interval or (0, 0)
    assert -0.25 <= low < 0.25 / 3 < high <= 0.375


def test_only_facts_that_both_have_count() -> None:
    found = column(leak(0.5, 0.9, facts=(1, 4)), leak(0.1, 0.2, facts=(1, 3)))
    assert found.recovery == pytest.approx({1: 0.4}) and found.interval is None


def test_without_a_control_the_value_itself_counts_unless_the_attack_says_nothing_then() -> None:
    assert column(leak(0.5, 0.1), None).recovery == {0: 0.5, 1: 0.1}
    silent = column(leak(0.5, 0.1, needs=True), None)
    assert silent.status == "no control" and silent.recovery == {} and silent.mean is None and silent.leaking == ()
    missed = column(None, None)
    assert missed.status == "not run" and missed.recovery == {}


def stepped(*points: tuple[float, ...], facts: tuple[int, ...] = (0, 1, 2)) -> Leak:
    """Relearning that was measured before it began and after steps 5, 10, ..."""
    return replace(
        leak(*points[-1], name="relearn.form", facts=facts),
        curve=tuple((5.0 * i, sum(point) / len(point)) for i, point in enumerate(points)),
        by_point=points,
    )


def test_a_fact_leaks_at_any_step_above_the_control_at_that_step_and_the_mean_is_that_of_the_last() -> None:
    # Fact 0 comes back after 5 steps and is gone after 10. Fact 1 comes back no earlier than in the control, whose
    # value after 10 steps is not compared with the model's after 5. Fact 2 was there before any step, and is not since.
    own = stepped((0.0, 0.0, 1.0), (0.75, 0.5, 0.0), (0.25, 0.5, 0.0))
    other = stepped((0.0, 0.0, 0.0), (0.25, 0.5, 0.0), (0.25, 0.25, 0.125))
    found = column(own, other, threshold=0.3, name="relearn.form")
    assert found.recovery == {0: 0.5, 1: 0.25, 2: 0.0} and found.leaking == (0,)
    assert found.reached == {0: Reached(0.75, 0.25, 5.0), 1: Reached(0.5, 0.25, 10.0), 2: Reached(0.0, 0.0, 5.0)}
    assert found.mean == pytest.approx((0.0 + 0.25 - 0.125) / 3)
    low, high = found.interval or (0, 0)
    assert -0.125 <= low < high <= 0.25
    assert found.passed == "Under relearn.form, 1 of the 1 leaking facts leaked on the way, no longer at the last step."
    assert replace(found, threshold=0.05).passed == (  # fact 1 still does
        "Under relearn.form, 1 of the 2 leaking facts leaked on the way, no longer at the last step."
    )
    assert column(leak(0.5, 0.1), leak(0.0, 0.0)).passed == ""
    whole = Attacked(columns=(found,), questions=("A?", "B?", "C?"), answers=(), control="retain model")
    assert found.passed in whole.text()
    alone = column(own, None, threshold=0.3)
    assert alone.recovery == {0: 0.75, 1: 0.5, 2: 0.0} and alone.mean == pytest.approx(0.25)
    few = column(own, stepped((0.0,), (0.0,), (0.5,), facts=(0,)), threshold=0.3)
    assert few.recovery == {0: 0.75} and few.mean == -0.25


def test_model_and_control_are_measured_after_the_same_steps(tmp_path: Path) -> None:
    own, ended = stepped((0.0,), (0.1,), (0.2,), facts=(0,)), leak(0.2, name="relearn.form")
    for other in (ended, stepped((0.0,), (0.2,), facts=(0,))):
        with pytest.raises(ExpungeError, match="the control was not measured after the same steps as the model"):
            column(own, other, name="relearn.form")
    for points in (((0.1,), (0.2,)), ((0.0,), (0.1, 0.1), (0.2,)), ((0.0,), (0.2,), (0.1,))):
        with pytest.raises(ExpungeError, match="one for each fact at each point, the last of them those that it ends"):
            replace(own, by_point=points)
    whole = Attacked(columns=(column(own, own),), questions=("Who?",), answers=("A",), control="retain model")
    assert load_attacked(whole.save(tmp_path)) == whole


@pytest.fixture
def attacked() -> Attacked:
    return Attacked(
        columns=(
            column(leak(0.5, 0.1, 0.0), leak(0.1, 0.1, 0.0)),
            column(leak(0.3, 0.6, name="prompts.quiz"), leak(0.2, 0.1, name="prompts.quiz"), name="prompts.quiz"),
            Column(name="lens", leak=None, control=None, threshold=0.2, note="it needs the retain set"),
        ),
        questions=("Who?", "What?", "Where?"),
        answers=("A", "B", "C"),
        control="retain model",
        label="npo",
    )


def test_the_worst_attack_of_each_fact_and_what_leaks_anywhere(attacked: Attacked) -> None:
    assert {fact: name for fact, (name, _) in attacked.worst.items()} == {
        0: "quantize.nf4",
        1: "prompts.quiz",
        2: "quantize.nf4",
    }
    assert attacked.leaking == (0, 1)
    assert attacked.text().startswith("2 of 3 facts leak in at least one of 2 attacks, compared with the retain model.")
    assert "The attack prompts.quiz tested 2 of 3 facts, and 1 of these leaks; it says nothing about" in attacked.text()
    assert "quantize.nf4 tested" not in attacked.text()  # it tested all
    assert "lens: not run. it needs the retain set" in attacked.text()
    header, rows, _ = attacked.table()
    assert rows[0][:4] == ("quantize.nf4", "0.2", "0.0667", "0.133") and rows[0][5] == "1 of 3" and len(header) == 7
    assert rows[2][1:3] == ("-", "-") and rows[2][-1] == "it needs the retain set"


def test_a_column_is_found_by_its_name(attacked: Attacked) -> None:
    assert attacked["prompts.quiz"].leaking == (1,)
    with pytest.raises(KeyError, match=r"there are quantize.nf4, prompts.quiz, lens"):
        attacked["prompts"]


def trained(start: float, end: float, name: str = "relearn.forget") -> Leak:
    return replace(leak(end, name=name), curve=((0.0, start), (10.0, end)))


@pytest.mark.parametrize(
    ("own", "control", "told"),
    [
        ((0.0625, 0.0664), (0.0625, 0.0625), "nothing came back (model +0.0039, control 0; below 0.01 is noise)"),
        ((0.25, 0.2422), (0.25, 0.2539), "nothing came back (model -0.0078, control +0.0039; below 0.01 is noise)"),
        ((0.0625, 0.0781), (0.0625, 0.0625), 0.0),  # the model gains .0156
        ((0.0625, 0.0664), (0.0625, 0.125), 1.0),  # the control alone gains
    ],
)
def test_where_nothing_came_back_there_is_no_r_but_the_reason(own: Any, control: Any, told: str | float) -> None:
    found = Attacked(
        columns=(column(trained(*own), trained(*control), name="relearn.retain"),),
        questions=("Who?",),
        answers=("A",),
        control="retain model",
    )
    if isinstance(told, str):
        assert (found.resistance, found.no_resistance) == ({}, {"relearn.retain": told})
        assert f"No R for relearn.retain: {told}." in found.text() and "(R, 1" not in found.text()
    else:
        assert (found.resistance, found.no_resistance) == ({"relearn.retain": told}, {})
        assert f"(R, 1: no faster than the control): relearn.retain {told:g}." in found.text()
    assert found.as_json()["no_resistance"] == found.no_resistance


def test_r_and_q_are_named_where_they_have_a_meaning() -> None:
    columns = (
        column(leak(0.25, 0.15), leak(0.0, 0.0), name="plain"),
        column(leak(0.5, 0.3), None, name="quantize.int8"),
        column(trained(0.25, 0.75), trained(0.125, 0.25), name="relearn.forget"),
        column(trained(0.5, 0.625), None, name="relearn.retain"),
        column(leak(0.5, 0.9), leak(0.1, 0.1), name="prompts.quiz"),
    )
    found = Attacked(columns=columns, questions=("Who?",), answers=("A",), control="retain model")
    assert found.resistance == {"relearn.forget": 0.25}  # 0.125 / 0.5
    assert found.stability == pytest.approx({"quantize.int8": 0.5})  # 0.2 / 0.4
    assert "(R, 1: no faster than the control): relearn.forget 0.25." in found.text()
    assert "(Q, 1: nothing comes back): quantize.int8 0.5." in found.text()
    said = found.as_json()
    assert (said["resistance"], said["stability"]) == (found.resistance, found.stability)
    # Untaught facts are asked of the model itself, which is no model that never knew.
    assert replace(found, control="untaught facts").resistance == {}
    assert replace(found, columns=columns[1:]).stability == {}


def test_the_file_gives_the_same_again(attacked: Attacked, tmp_path: Path) -> None:
    path = attacked.save(tmp_path / "out")
    assert load_attacked(tmp_path / "out") == load_attacked(path) == attacked
    assert [file.name for file in path.parent.iterdir()] == ["attacked.json"]
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(ExpungeError, match="is not the result of an attack"):
        load_attacked(path)
    path.write_text("{")
    with pytest.raises(ExpungeError, match="is damaged"):
        load_attacked(path)


def test_a_file_of_the_first_format_has_the_last_step_alone_and_says_so(tmp_path: Path) -> None:
    found = column(stepped((0.0, 0.0, 0.0), (0.9, 0.0, 0.0), (0.1, 0.0, 0.3)), None)
    asked = Attacked(columns=(found,), questions=("a", "b", "c"), answers=(), control=None)
    assert asked.leaking == (0, 2)
    content = json.loads(asked.save(tmp_path).read_text()) | {"format": 1}
    del content["digest"], content["columns"][0]["leak"]["by_point"]
    old = load_attacked(write_sealed(tmp_path / "old.json", content))
    assert old.leaking == (2,) and old.columns[0].note == OLD
    assert old.columns[0].mean == found.mean


def test_texts_are_kept_hashed_or_left_out(attacked: Attacked, tmp_path: Path) -> None:
    assert attacked.with_texts("keep") == attacked
    hashed, dropped = attacked.with_texts("hash"), attacked.with_texts("drop")
    assert hashed.questions == dropped.questions == attacked.asked == tuple(map(text_hash, attacked.questions))
    assert hashed.answers == tuple(map(text_hash, attacked.answers)) and dropped.answers == ()
    leak = hashed["quantize.nf4"].control
    assert leak is not None and leak.texts[0] == text_hash("text 0.1")
    assert all(not (one and (one.texts or one.prompts)) for c in dropped.columns for one in (c.leak, c.control))
    for found in (hashed, dropped):
        assert found.worst == attacked.worst and found.text() == attacked.text() and found.asked == attacked.asked
        assert load_attacked(found.save(tmp_path / "out")) == found
        written = (tmp_path / "out/attacked.json").read_text()
        assert not any(text in written for text in ("Who?", "What?", "Where?", "text 0"))


def test_a_value_for_each_fact() -> None:
    with pytest.raises(ExpungeError, match=r"2 values for 1 facts; it needs one in \[0, 1\] for each"):
        leak(0.1, 0.2, facts=(0,))
    with pytest.raises(ExpungeError, match="needs one in"):
        leak(1.5)
