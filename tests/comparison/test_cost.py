"""What a comparison takes: counted beforehand, held against what it then does."""

import shutil

import pytest

from expunge.comparison import cost as cost_module
from expunge.comparison import plan as plan_module
from expunge.comparison.compare import compare
from expunge.comparison.cost import cost
from expunge.comparison.plan import planned
from expunge.evaluation import collect


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    monkeypatch.setattr(cost_module, "speed", lambda: 1e3)


@pytest.mark.slow
def test_what_is_counted_is_what_is_then_measured(compared_runs, monkeypatch):
    rows_seen = []
    original = collect.teacher_forced

    def seen(model, rows, **settings):
        rows_seen.append((len(rows), sum(len(row.ids) for row in rows)))
        return original(model, rows, **settings)

    monkeypatch.setattr(collect, "teacher_forced", seen)
    runs, retain = [compared_runs / "npo-s0", compared_runs / "npo-s1"], compared_runs / "retain"
    before = cost(planned(runs), retain=retain)
    told = [(one.what, one.group, one.models, one.reused) for one in before.measured]
    assert told == [
        ("retain model", "retain model", 1, 0),
        ("start model", "start model", 1, 0),
        ("npo-s0", "npo (2 seeds)", 3, 0),
        ("npo-s1", "npo (2 seeds)", 3, 0),
    ]
    assert (before.made, before.reused) == (8, 0)
    compare(runs, retain=retain)
    each = (sum(one.rows for one in before.shown), sum(one.tokens for one in before.shown))
    assert rows_seen == 8 * [each]
    after = cost(planned(runs), retain=retain)
    assert (after.made, after.reused, after.time) == (0, 8, "nothing is to be measured")


def test_time_is_by_arithmetic_until_something_is_measured(compared_runs):
    run = compared_runs / "npo-s0"
    plan = planned(run)
    first = cost(plan)
    numbers = sum(p.numel() for p in plan_module.load_model(run).parameters())
    seconds = 2 * numbers * sum(one.tokens for one in first.shown) / 1e3
    assert first.time == (
        f"{cost_module.lasting(seconds)} a model, {cost_module.lasting(4 * seconds)} in all (at least, by arithmetic "
        "alone, without answers that models write)"
    )
    compare(run)
    assert cost(planned([run, compared_runs / "npo-s1"])).time.endswith(" in all (by 4 measured before)")


def test_weights_are_read_only_where_records_may_be_of_them(compared_runs, monkeypatch, tmp_path):
    read = []
    original = plan_module.load_model

    def counted(source, **settings):
        read.append(source)
        return original(source, **settings)

    monkeypatch.setattr(plan_module, "load_model", counted)
    run = tmp_path / "npo-s0"
    shutil.copytree(compared_runs / "npo-s0", run)
    cost(planned(run))
    assert read == []
    compare(run, rows=4)  # records on fewer rows are of other data
    read.clear()
    assert cost(planned(run)).reused == 0 and read == []
    assert cost(planned(run, rows=4)).reused == 4 and len(read) == 4


def test_mixtures_are_counted_at_most(compared_runs):
    found = cost(planned(compared_runs / "npo-s0", trace="mixing"))
    assert [(one.models, one.reused) for one in found.measured] == [(1, 0), (26, 1)]


def test_fewer_rows_are_evenly_spaced_ones(compared_runs):
    run = compared_runs / "npo-s0"
    whole, few = compare(run), compare(run, rows=3)
    (last, at_most) = (found.curves[0].points[-1] for found in (whole, few))
    assert at_most.forget == tuple(last.forget[i] for i in (0, 2, 4))
    assert at_most.retain == tuple(last.retain[i] for i in (0, 3, 6))
    assert compare(run, rows=100) == whole
