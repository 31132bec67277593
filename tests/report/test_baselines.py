"""Start and retain model of a report, known by their weights."""

from dataclasses import replace
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.report.baselines import Beside, beside, with_named
from expunge.results.measures import Evaluation


@pytest.fixture
def run(tmp_path: Path, models: list[Evaluation]) -> tuple[Path, Evaluation]:
    """An evaluated run that began from the weights `s` and was compared with the weights `r`."""
    inputs, results = {"model": "s"}, {"start_model": str(tmp_path / "start")}
    Manifest(stage="unlearn", arguments={}, inputs=inputs, results=results).save(tmp_path / "npo")
    paths = {"reference": str(tmp_path / "retain")}
    about = {"inputs": {"model": "u"}, "reference": {"model": "r"}, "paths": paths}
    return tmp_path / "npo", replace(models[3], about=about, label="npo")


def saved(evaluation: Evaluation, folder: Path, weights: str) -> Evaluation:
    evaluation = replace(evaluation, about={"inputs": {"model": weights}})
    evaluation.save(folder / "evaluation.json")
    return evaluation


def test_what_the_run_names_is_found_and_marked(run, tmp_path, models):
    folder, npo = run
    start = saved(models[0], tmp_path / "start" / "records", "s")
    retain = saved(models[1], tmp_path / "retain", "r")
    found = beside([folder], [npo], start=None, retain=None)
    assert found == Beside(
        (start.labeled("start model"), retain.labeled("retain model")), "start model", "retain model"
    )


def test_other_weights_are_not_taken_and_the_command_is_told(run, tmp_path, models):
    folder, npo = run
    saved(models[0], tmp_path / "start", "of another dtype")
    found = beside([folder], [npo], start=None, retain=None)
    assert found.evaluations == () and found.start is None and found.retain is None
    assert found.notes[0] == "start/evaluation.json was left out: it is not of the start model's weights."
    assert f"expunge evaluate model={tmp_path / 'start'}" in found.notes[1]
    saved(models[1], tmp_path / "retain", "made again")
    found = beside([folder], [npo], start=None, retain=None)
    assert found.notes[2] == "retain/evaluation.json was left out: it is not of the retain model's weights."


def test_a_role_is_a_label_or_a_path_and_what_is_there_already_is_not_added(tmp_path, models):
    start, npo = saved(models[0], tmp_path / "runs" / "start-records", "s"), models[3]
    shown = ((npo, start.labeled("before")), {"start": "before", "retain": None})
    for name in ("before", f"{tmp_path}/runs/start-records", f"{tmp_path}/runs/start-records/evaluation.json"):
        assert with_named(shown[0], start=name, retain=None) == shown
    found, labels = with_named([npo], start=f"{tmp_path}/runs/start", baseline=f"{tmp_path}/runs/start-records")
    assert found == (npo, start) and labels == {"start": start.label, "baseline": start.label}
    same = npo.labeled(start.label)  # two of one label: the added one is numbered, and is the one that is meant
    found, labels = with_named([same], start=f"{tmp_path}/runs/start")
    assert found == (same, start.labeled(f"{start.label} (2)")) and labels == {"start": f"{start.label} (2)"}


def test_a_role_that_is_nowhere_names_the_nearest_label_and_what_else_will_do(tmp_path, models):
    with pytest.raises(ExpungeError, match=r"\(for start=\) is called 'strat'. Did you mean 'start'\? A folder of rec"):
        with_named([models[0].labeled("start")], start="strat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpungeError, match=f"no evaluation at {tmp_path / 'empty'}"):
        with_named([models[0]], retain=str(tmp_path / "empty"))


def test_one_that_was_named_among_the_runs_takes_its_role(run, tmp_path, models):
    folder, npo = run
    start, retain = (replace(m, about={"inputs": {"model": w}}) for m, w in zip(models[:2], "sr", strict=True))
    found = beside([folder, tmp_path], [npo, start, retain], start=None, retain=None)
    assert found == Beside((), start.label, retain.label)
    found = beside([folder], [npo], start="npo", retain="npo")  # what was said stands
    assert found == Beside((), "npo", "npo")
