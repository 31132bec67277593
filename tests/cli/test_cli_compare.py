"""`expunge compare`: from the runs of unlearn to a page, a drawing and a table."""

import pytest


@pytest.fixture
def runs(call, model_folder, data, tmp_path):
    for seed in (0, 1):
        words = (f"model={model_folder}", f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl", "method=npo")
        train = ("learning_rate=1e-3", "epochs=2", "batch_size=6", "keep_checkpoints=0", f"seed={seed}")
        assert call("unlearn", *words, *train, f"output={tmp_path}/runs/npo-{seed}").code == 0
    return tmp_path / "runs"


@pytest.mark.slow
def test_runs_compare_without_naming_anything_else(call, runs, model_folder, tmp_path):
    out = tmp_path / "out"
    code, text, err = call("compare", runs / "npo-0", runs / "npo-1", model_folder, f"output={out}")
    assert code == 0, err
    assert "npo (2 seeds)" in text and "hypervolume" in text and "trapezoid" in text
    assert "Pareto front: " in text and "Left out, as no runs of unlearn" in text
    assert {p.name for p in out.iterdir()} == {
        "comparison.html",
        "comparison.json",
        "curves.png",
        "curves.svg",
        "summaries",
    }
    page = (out / "comparison.html").read_text()
    assert "<svg" in page and "AUES (trapezoid): area below the straight lines" in page and "<script" not in page
    code, _, err = call("compare", runs / "npo-0", f"output={out}")
    assert code == 2 and "in use" in err and "--overwrite" in err
    other = ("trace=mixing", f"retain={model_folder}", f"start={model_folder}", f"output={tmp_path}/mixed")
    code, text, _ = call("compare", runs / "npo-0", *other)
    assert code == 0 and "alpha" in text and "MU95" in text
    assert "a ring at the calibrated mixture" in (tmp_path / "mixed" / "comparison.html").read_text()


@pytest.mark.slow
def test_the_dry_run_says_what_compare_needs_and_what_it_says_is_so(call, model_folder, data, tmp_path):
    files = (f"model={model_folder}", f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    words = (*files, "method=npo", "learning_rate=1e-3", "epochs=1", "batch_size=6")
    for more, said in (((), 1), (("checkpoint_every=0", "keep_checkpoints=0"), 1), (("keep_checkpoints=0",), 0)):
        for flags in (("--dry-run",), ()):
            folder = tmp_path / f"run-{len(more)}-{said}"
            code, out, err = call("unlearn", *words, *more, f"output={folder}", *flags)
            assert code == 0, err
            told = said if flags else 0  # beforehand, in the dry run; a run that went well gives no such advice
            assert out.count("keep_checkpoints=0 (and") == out.count("expunge compare") == told, (more, flags)
    without = tmp_path / "run-0-1"
    code, _, err = call("compare", without, f"output={tmp_path}/along")
    assert code == 2 and "kept no checkpoints" in err and "trace=mixing" in err
    code, _, err = call("compare", without, "trace=mixing", f"output={tmp_path}/mixed")
    assert code == 0, err
    _, out, _ = call("train", f"model={model_folder}", f"data={data}/retain.jsonl", "epochs=1", f"output={tmp_path}/t")
    assert "expunge compare" not in out


def test_a_dry_run_says_what_would_be_measured_and_what_is_wrong(call, runs, model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "records").mkdir(parents=True)
    before = sorted(path for path in tmp_path.rglob("*"))
    words = (runs / "npo-0", runs / "npo-1", model_folder, f"output={tmp_path}/out")
    code, out, err = call("compare", *words, "--dry-run")
    assert code == 0, out + err
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["npo-0"] == ["npo", "(2", "seeds)", "2", "0", "2"]
    assert rows["start"] == ["model", "start", "model", "1", "0", "1"]
    assert rows["forget"] == ["6"] and rows["retain"] == ["10"] and rows["forget/question/answer"][0] == "6"
    assert "5 models to measure and 0 reused; 16 rows and" in out and "at least, by arithmetic alone" in out
    assert f"left out, as no run of unlearn: {model_folder}" in out and "leave out --dry-run to start" in out
    assert sorted(path for path in tmp_path.rglob("*")) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    code, out, _ = call("compare", *words, f"retain={tmp_path}/nowhere", "--dry-run")
    assert code == 1 and "in use" in out and "nowhere" in out
    for more, said in (((), "in use"), ((f"retain={tmp_path}/nowhere", f"output={tmp_path}/new"), "nowhere")):
        code, _, err = call("compare", *words, *more)  # the run refuses the same
        assert code == 2 and said in err


def test_the_table_keeps_within_80_columns_where_there_is_no_terminal(call, runs, tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    _, text, _ = call("compare", runs / "npo-0", f"output={tmp_path}/out")
    drawn = text[: text.index("Pareto front")].splitlines()
    assert "trapezoid" in text and max(map(len, drawn)) <= 80


def test_errors(call, tmp_path):
    code, _, err = call("compare")
    assert code == 2 and "name the runs to compare" in err
    code, _, err = call("compare", "runs/x", "level=2")
    assert code == 2 and "level must be between 0 and 1" in err


def test_a_dry_run_after_the_run_says_that_nothing_is_to_be_measured(call, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    words = (runs / "npo-0", "rows=4", f"output={tmp_path}/out")
    code, out, err = call("compare", *words, "--dry-run")
    assert code == 0 and "3 models to measure and 0 reused; 8 rows" in out, out + err
    assert call("compare", *words).code == 0
    code, out, err = call("compare", *words, "--dry-run", "--overwrite")
    assert code == 0 and "0 models to measure and 3 reused" in out and "nothing is to be measured" in out, out + err
    code, out, err = call("compare", *words, "trace=mixing", "--dry-run", "--overwrite")
    assert code == 0 and "24 models at most to measure and 3 reused" in out, out + err
