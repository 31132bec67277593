"""Which models stand beside one, and where a run says that they are."""

from pathlib import Path

import pytest

from expunge.chat.beside import Source, data_of, sources
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.results.measures import Evaluation, Measure


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that names its start model, and an evaluation of it that names the records of its retain model."""
    monkeypatch.chdir(tmp_path)
    results = {"start_model": "base", "result": {"dtype": "float32"}, "corpus": {"source": "files", "forget": "f"}}
    Manifest(stage="unlearn", arguments={}, inputs={"model": "xxh3:1"}, results=results).save("runs/npo")
    Path("runs/retain").mkdir()
    Path("runs/retain/config.json").write_text("{}")
    measure = Measure(value=0.5, better="lower", n=3, definition="d", source="s")
    about = {
        "paths": {"reference": "runs/retain-records"},
        "reference": {"model": "xxh3:2"},
        "settings": {"dtype": "float32"},
    }
    Evaluation({"rouge": measure}, about=about).save("runs/npo-records/evaluation.json")
    return "runs/npo"


def test_a_run_names_start_and_retain_model(run: str) -> None:
    assert sources([run, "other/simnpo"], ["retain", "start", "hub/model"]) == {
        "npo": Source("runs/npo"),
        "simnpo": Source("other/simnpo"),
        "retain": Source("runs/retain", "xxh3:2", "float32"),
        "start": Source("base", "xxh3:1", "float32"),
        "model": Source("hub/model"),
    }
    assert list(sources([run], ["retain", "start"])) == ["npo", "retain", "start"]
    assert data_of(run) == {"source": "files", "forget": "f"}


def test_a_checkpoint_has_what_its_run_says(run: str) -> None:
    inside = Path(run) / "checkpoints/checkpoint-8"
    inside.mkdir(parents=True)
    assert sources([str(inside)], ["start"])["start"].place == "base"
    assert data_of(str(inside)) == data_of(run)


def test_a_folder_of_the_name_where_no_run_says_it(run: str) -> None:
    with pytest.raises(ExpungeError, match="hub/model does not say where its start model is: it is no run folder"):
        sources(["hub/model"], ["start"])
    with pytest.raises(ExpungeError, match="does not say where its retain model is: it was not evaluated against"):
        sources(["base"], ["retain"])
    Path("start").mkdir()
    assert sources(["base"], ["start"])["start"] == Source("start")
    assert sources([run], ["start"])["start"].place == "base"
    assert data_of("base") == {}


def test_an_error_says_where_was_looked_and_what_to_type(run: str) -> None:
    with pytest.raises(ExpungeError, match=r"evaluate ... reference=\). Name .* beside=<folder of the retain model>$"):
        sources(["base"], ["retain"])
    Path("runs/retain/config.json").unlink()
    said = "evaluated against the records in runs/retain-records, and the folder of their model is not beside them"
    with pytest.raises(ExpungeError, match=rf"{said}. Name .* word retain: beside=<folder of the retain model>$"):
        sources([run], ["retain"])
    assert sources([run], ["elsewhere/retain90"])["retain90"] == Source("elsewhere/retain90")


def test_names_are_unlike(run: str) -> None:
    found = sources(["runs/npo", "more/npo", "kept/start"], ["start"])
    assert {label: source.place for label, source in found.items()} == {
        "runs/npo": "runs/npo",
        "more/npo": "more/npo",
        "kept/start": "kept/start",
        "start": "base",
    }
    for models, beside in (([run, run], []), ([run], [run]), ([run], ["start", "start"])):
        with pytest.raises(ExpungeError, match="named more than once"):
            sources(models, beside)


def test_only_weights_of_one_type_are_compared() -> None:
    source = Source("base", "xxh3:1", "float32")
    assert source.differs("xxh3:2", "torch.float32")
    assert not source.differs("xxh3:1", "torch.float32") and not source.differs("xxh3:2", "torch.bfloat16")
    assert not Source("base").differs("xxh3:2", "torch.float32")
