"""What is in a folder of runs, finished, going on and broken."""

import json
from pathlib import Path

import made_run
from expunge.core.lock import lock_file
from expunge.core.manifest import Manifest
from expunge.view.runs import POINTS, evaluated, runs_in


def test_a_finished_run_is_listed_with_what_was_measured_of_it(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "npo", planned_steps=10, outcome="forgotten")
    (run / "history.csv").write_text("step,forget_loss,retain_loss\n1,2.5,0.5\n2,1.5,\n")
    made_run.evaluation(forget_extraction_strength=0.25, retain_extraction_strength=None).save(
        tmp_path / "npo-records" / "evaluation.json"
    )
    made_run.attacked({"sampling": (0.9, *(0.0,) * 5)}).save(tmp_path / "npo-records")
    (found,) = runs_in(tmp_path)
    assert (found.name, found.stage, found.method, found.state) == ("npo", "unlearn", "npo", "finished")
    assert (found.step, found.steps, found.outcome) == (10, 10, "forgotten")
    assert found.losses == {"forget_loss": [2.5, 1.5], "retain_loss": [0.5]}
    assert found.measured == {"forget_extraction_strength": 0.25, "retain_extraction_strength": None}
    assert found.leaking == (1, 6) and found.verdict == "" and found.faults == ()
    json.dumps(found.as_json(), allow_nan=False)
    assert evaluated(tmp_path) == [run]


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "npo"
    Manifest(stage="unlearn", arguments={"method": "npo", "epochs": 4.0}).save(run)
    (found,) = runs_in(tmp_path)
    assert (found.name, found.state, found.step, found.steps) == ("deep/npo", "unfinished", 0, None)
    rows = [{"step": n, "forget_loss": float(n), "epoch": n / 50} for n in range(1, 151)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "history.jsonl").write_text(text + '{"step": 151, "forg')  # a row that is being written
    lock_file(run).write_text("1\nanother-host\n")
    (found,) = runs_in(tmp_path)
    assert (found.state, found.step, found.steps) == ("running", 150, 200)
    losses = found.losses["forget_loss"]
    assert len(losses) <= POINTS and losses[-1] == 150.0 and losses[0] <= 3.0
    assert evaluated(tmp_path) == []


def test_what_is_no_run_is_left_out_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    run = made_run.run(tmp_path / "npo")
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    Manifest(stage="unlearn", arguments={}).save(run / "checkpoints" / "checkpoint-1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    Manifest(stage="evaluate", arguments={}).save(tmp_path / "records")
    (tmp_path / "npo-records").mkdir()
    (tmp_path / "npo-records" / "evaluation.json").write_text("{}")
    (found,) = runs_in(tmp_path)
    assert found.name == "npo" and len(found.faults) == 1 and found.faults[0].startswith("evaluation: ")


def test_an_evaluation_that_stands_alone_is_part_of_the_report(tmp_path: Path) -> None:
    made_run.evaluation("xxh3:start", forget_rouge=0.5).save(tmp_path / "start" / "evaluation.json")
    run = made_run.run(tmp_path / "npo")
    made_run.evaluation(forget_rouge=0.1).save(run / "evaluation.json")
    assert evaluated(tmp_path) == [run, tmp_path / "start"]
