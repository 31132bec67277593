from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.report.compared_models import assign_roles, distinct, gather
from expunge.results.measures import Evaluation


def test_from_memory_a_file_a_run_folder_and_its_records(tmp_path: Path, models: list[Evaluation]) -> None:
    start, retain, *_, npo, simnpo = models
    file = retain.save(tmp_path / "somewhere" / "retain.json")
    npo.save(tmp_path / "npo" / "evaluation.json")
    simnpo.save(tmp_path / "simnpo" / "records" / "evaluation.json")
    found = gather([start, file, str(tmp_path / "npo"), tmp_path / "simnpo"])
    assert list(found) == [start, retain, npo, simnpo]


def test_one_alone_needs_no_list(tmp_path: Path, models: list[Evaluation]) -> None:
    assert gather(models[0]) == (models[0],)
    assert gather(models[0].save(tmp_path / "evaluation.json")) == (models[0],)


def test_the_default_label_gives_way_to_the_name_of_the_run(tmp_path: Path, models: list[Evaluation]) -> None:
    plain = models[0].labeled("model")
    plain.save(tmp_path / "beta01" / "evaluation.json")
    plain.save(tmp_path / "beta02" / "records" / "evaluation.json")
    labels = [e.label for e in gather([tmp_path / "beta01", tmp_path / "beta02", plain])]
    assert labels == ["beta01", "beta02", "model"]


def test_nothing_and_what_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="at least one evaluation; got none"):
        gather([])
    with pytest.raises(ExpungeError, match=r"no evaluation at .*missing: looked for .*records.evaluation\.json"):
        gather([tmp_path / "missing"])
    (tmp_path / "evaluation.json").write_text('{"measures": [1, 2')
    with pytest.raises(ExpungeError, match=r"evaluation\.json is damaged: broken JSON"):
        gather([tmp_path])
    (tmp_path / "evaluation.json").write_text('{"accuracy": 0.5}')
    with pytest.raises(ExpungeError, match="is not an evaluation"):
        gather([tmp_path])


def test_labels_that_collide_are_numbered_and_none_is_dropped(make_model: Callable[..., Evaluation]) -> None:
    npo = make_model("NPO")
    given = [npo, npo.labeled("NPO (2)"), npo, npo.labeled(" NPO\n"), npo.labeled("")]
    assert [e.label for e in distinct(given)] == ["NPO", "NPO (2)", "NPO (3)", "NPO (4)", "model"]
    assert [e.label for e in distinct([npo, npo, npo.labeled("NPO (2)")])] == ["NPO", "NPO (3)", "NPO (2)"]


def test_roles_come_first_and_are_spelled_out_where_the_label_is_silent(models: list[Evaluation]) -> None:
    start, retain, *methods = models
    given = [*methods, retain.labeled("retain90"), start.labeled("full")]
    found = assign_roles(given, start="full", retain="retain90")
    assert [(model.name, model.role) for model in found[:2]] == [
        ("full (start model)", "start"),
        ("retain90", "retain"),
    ]
    assert [model.label for model in found[2:]] == [e.label for e in methods]


def test_roles_of_labels_that_are_not_there(models: list[Evaluation]) -> None:
    with pytest.raises(ExpungeError, match=r"no evaluation \(for start=\) is called 'strat'. Did you mean 'start'"):
        assign_roles(models, start="strat", retain=None)
    with pytest.raises(ExpungeError, match="both were called 'start'"):
        assign_roles(models, start="start", retain="start")
