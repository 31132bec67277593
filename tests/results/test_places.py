"""Where records are, and whose they are."""

from pathlib import Path

import pytest

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.results.foreign_logs import load_records
from expunge.results.places import attacked_beside, attacked_folder, model_folder, places, records_folder
from expunge.results.records import Records
from made_records import certain, view


def run(folder: Path, **result: object) -> Path:
    Manifest(stage="unlearn", arguments={}, git=None, results={"result": result}).save(folder)
    return folder


def of(model: str, **settings: object) -> Records:
    return Records(
        view(certain(0.5)).table, Manifest(stage="evaluate", arguments=settings, inputs={"model": model}, git=None)
    )


def test_records_go_next_to_the_model_and_not_into_it(tmp_path, monkeypatch):
    assert records_folder("runs/npo") == Path("runs/npo-records")
    npo = run(tmp_path / "npo")
    assert records_folder(npo / "checkpoints/checkpoint-5") == tmp_path / "npo-records/checkpoints/checkpoint-5"
    attacked = {place: attacked_folder(place) for place in (npo, npo / "checkpoints/checkpoint-5")}
    assert [*attacked.values()] == [tmp_path / "npo-attacked", tmp_path / "npo-attacked/checkpoints/checkpoint-5"]
    for place, folder in attacked.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "attacked.json").touch()
        assert attacked_beside(place) == [folder / "attacked.json"]
    monkeypatch.chdir(npo)
    assert records_folder(".") == tmp_path / "npo-records"
    assert attacked_folder(".") == tmp_path / "npo-attacked"
    assert attacked_beside(Path()) == [tmp_path / "npo-attacked/attacked.json"]
    assert model_folder(Path("runs/npo-records")) == model_folder(Path("runs/npo/records")) == Path("runs/npo")
    assert model_folder(Path("runs/rescored")) == Path("runs/rescored")
    assert places(npo)[0] == npo and tmp_path / "npo-records" in places(npo)


def test_records_of_other_weights_than_those_in_the_folder_are_refused(tmp_path):
    npo = run(tmp_path / "npo", model="xxh3:new", dtype="float32")
    of("xxh3:new", dtype="float32").save(tmp_path / "npo-records")
    assert len(load_records(npo)) == 1
    of("xxh3:old", dtype="float32").save(tmp_path / "npo-records")
    with pytest.raises(ExpungeError, match=r"is of another model than the one in .*npo: .* evaluate model=.*npo"):
        load_records(npo)
    assert len(load_records(tmp_path / "npo-records")) == 1  # named for what they are
    # Another type of weights has another fingerprint, of the same model.
    of("xxh3:rounded", dtype="bfloat16").save(tmp_path / "npo-records")
    assert len(load_records(npo)) == 1
    of("xxh3:packed", dtype="float32", bits=4).save(tmp_path / "npo-records")
    assert len(load_records(npo)) == 1
