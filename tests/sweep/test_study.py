"""What a study may be set to, and the file that says so."""

from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from expunge.config.yaml_source import Layer, origin
from expunge.core.checks import ExpungeError
from expunge.sweep.space import Choices, Range
from expunge.sweep.study import StudyConfig
from expunge.sweep.study_file import StudyFile, read_study_file, refuse


@pytest.mark.parametrize("text", ["", "2", "soon", "0h", "-1h", "2 days", "1.2.3h", "2hh"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ExpungeError, match="budget must be a length of time, such as 2h"):
        StudyConfig(budget=text)


@pytest.fixture
def _as_users_have_it() -> Any:
    """Without the checks of types that hold while tests run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_as_users_have_it")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"every": 0.0}, "every must be above 0"),
        ({"seed": -1}, "seed must be"),
        ({"sampler": "tabu"}, "no sampler is called 'tabu'"),
        ({"control": "nothing"}, "leave control out, or name a model"),
        ({"keep": "none"}, "keep must be best or all"),
        ({"constraint": ("retain_rouge > 0.4",)}, "is none, such as 'utility >= 0.95 of start'"),
        ({"objective": ("forget rouge",)}, "is none, such as 'recovery'"),
    ],
)
def test_what_a_study_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpungeError) as caught:
        StudyConfig(**changes)
    assert message in str(caught.value)


@pytest.mark.usefixtures("_as_users_have_it")
def test_one_text_stands_for_a_list_of_one() -> None:
    config = StudyConfig(objective="aues", constraint="utility >= 0.9 of start", attacks="quantize")  # type: ignore[arg-type]
    assert (config.objective, config.constraint) == (("aues",), ("utility >= 0.9 of start",))


STUDY = """\
settings:
  model: my-model
  columns.question: q
search:
  method: [npo, rmu]
  npo.beta: {low: 1e-2, high: 1, log: true}
  mask:
    - null
    - {attribution: magnitude, ratio: 0.5}
  seed: [0, 1]
study:
  trials: 5
"""


def read(folder: Path, text: str = STUDY) -> StudyFile:
    path = folder / "study.yaml"
    path.write_text(text)
    return read_study_file(path)


def recipe(layer: Layer) -> dict[str, Any]:
    return {**layer.tree, "ratio": float(layer.tree["ratio"])}


def test_a_study_file_is_read_with_its_lines(tmp_path: Path) -> None:
    file = read(tmp_path)
    assert [layer.tree for layer in file.layers("settings")] == [{"model": "my-model"}, {"columns": {"question": "q"}}]
    space = file.space(recipe)
    values = {parameter.name: parameter.values for parameter in space.parameters}
    assert values["npo.beta"] == Range(0.01, 1.0, log=True)
    mask = {"attribution": "magnitude", "ratio": 0.5}
    assert isinstance(values["mask"], Choices) and [*values["mask"].values.values()] == ["null", mask]
    labels = [*values["mask"].values]
    point = {"method": "npo", "npo.beta": 0.25, "mask": "null", "seed": "1"}
    layers = file.point_layers(point, space)
    assert [layer.tree for layer in layers] == [{"method": "npo"}, {"beta": "0.25"}, {"mask": "null"}, {"seed": "1"}]
    lines = [origin((next(iter(layer.tree)),), layer.marks).rpartition(", ")[2] for layer in layers]
    assert lines == ["line 5", "line 6", "line 8", "line 10"]
    assert len(file.point_layers({**point, "mask": labels[1]}, space)) == 3  # no file is there for a recipe
    assert space.settings({**point, "mask": labels[1]})["mask"] == mask


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the sections settings, search, study"),
        ("settings: {model: m}\n", "lacks the section search"),
        ("search: {seed: [1]}\n", "lacks the section settings"),
        ("settings: {model: m}\nserach: {seed: [1]}\n", "is called 'serach' (from {}, line 2). Did you mean 'search'"),
        ("settings: m\nsearch: {seed: [1]}\n", "settings must hold settings, one a line (from {}, line 1)"),
        ("settings: {model: m}\nsettings: {}\n", "is given a second time"),
        ("settings: [\n", "not valid YAML"),
    ],
)
def test_what_is_no_study_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ExpungeError) as caught:
        read(tmp_path, text)
    assert message.format(tmp_path / "study.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: 3", "seed needs a list of values, or a range: {low: 1e-6, high: 1e-4, log: true} (from"),
        ("seed: [1, 1]", "seed lists 1 twice. (from"),
        ("seed: {low: a, high: 2}", "search.seed.low must be a number; got 'a' (from"),
        ("seed: {low: 1, high: 2, log: perhaps}", "search.seed.log must be true or false; got 'perhaps' (from"),
        ("seed: {low: 2, high: 1}", "seed: low must be below high; got 2 and 1. (from"),
        ("model: [a]", "model is a setting of all runs and searched, too. Leave one out. (from"),
    ],
)
def test_what_is_refused_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    file = read(tmp_path, STUDY.replace("seed: [0, 1]", line))
    with pytest.raises(ExpungeError) as caught:
        file.space(recipe)
    assert f"{message} {tmp_path / 'study.yaml'}, line 10)" in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="no study file at"):
        read_study_file(tmp_path / "study.yaml")


def test_settings_that_have_no_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"model has no place in a study \(from .*line 2\): it is given"):
        refuse(read(tmp_path).layers("settings"), {"model": "it is given."})
