"""`expunge localize` and `expunge mask`."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from expunge.cli.verbs.localize import describe
from expunge.masks.mask import Mask
from expunge.masks.scores import Scores
from expunge.results.measures import Evaluation, Measure


@pytest.fixture
def words(model_folder: Path, data: Path, tmp_path: Path) -> list[str]:
    return [
        f"model={model_folder}",
        f"forget={data}/forget.jsonl",
        f"retain={data}/retain.jsonl",
        f"output={tmp_path}/mask.safetensors",
    ]


def test_a_mask_and_its_scores_are_written(call: Callable[..., Any], words: list[str], tmp_path: Path) -> None:
    code, out, err = call("localize", *words, "ratio=0.25", f"scores={tmp_path}/scores.safetensors")
    assert code == 0, err
    assert "36 value vectors (25 %), 25 % of the eligible weights" in out
    assert "units whose retain term g_r / gamma exceeds their weights: 100.0 %" in out
    assert "note: 100.0 % of units whose retain term" in out and "warning" not in err  # usual, so nothing to warn of
    mask = Mask.load(tmp_path / "mask.safetensors")
    assert mask.share().units == 0.25 and mask.manifest.arguments["attribution"] == "wagle"
    assert Scores.load(tmp_path / "scores.safetensors").select(ratio=0.25) == mask


def test_settings_reach_the_stage(call: Callable[..., Any], words: list[str], tmp_path: Path) -> None:
    told = call(
        "localize",
        *words,
        "attribution=memflex",
        "unit=weight",
        "modules=attention,layers.0.*down",
        "count=50",
        "mu=0.5",
    )
    assert told.code == 0, told.err
    mask = Mask.load(tmp_path / "mask.safetensors")
    assert sum(mask.counts().values()) == 50 and "model.layers.0.mlp.down_proj.weight" in mask.layout.parts
    assert "model.layers.1.mlp.down_proj.weight" not in mask.layout.parts
    assert mask.manifest.arguments["hyperparameters"]["mu"] == 0.5
    assert mask.manifest.arguments["selection"] == {"count": 50, "order": "top", "scope": "global"}


def test_data_are_read_only_where_they_are_looked_at(
    call: Callable[..., Any], model_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "random.safetensors"
    told = call("localize", f"model={model_folder}", "attribution=random_down", f"output={path}")
    assert told.code == 0 and path.is_file(), told.err


def test_a_dry_run_writes_nothing(call: Callable[..., Any], words: list[str], tmp_path: Path) -> None:
    code, out, _ = call("localize", *words, "attribution=memflex", "--dry-run")
    assert code == 0 and not list(tmp_path.iterdir())
    assert "144 units of value_vector in 3 parameters, 4608 weights" in out
    assert "mu" in out and "0.92" in out and "sums of gradients" in out and "First forget row" in out
    # The rows that will be looked at, not all that there are: 6 forget rows, and as many retain rows by default.
    assert re.search(r"retain\s+6\s", out)
    code, out, _ = call("localize", *words, "attribution=memflex", "retain_examples=3", "--dry-run")
    assert code == 0 and re.search(r"retain\s+3\s", out)
    for refused, message in (
        (("attribution=memflex", "retain_examples=99"), "retain_examples must be between 1 and 10"),
        (("attribution=activation", "unit=weight"), "activation is not defined for unit=weight"),
    ):
        code, out, _ = call("localize", *words, *refused, "--dry-run")
        assert code == 1 and message in out


def test_mistakes(call: Callable[..., Any], words: list[str], tmp_path: Path, model_folder: Path) -> None:
    assert "output is missing" in call("localize", f"model={model_folder}").err
    assert "Did you mean 'wagle'" in call("localize", *words, "attribution=wagl").err
    assert "no setting is called 'gama'" in call("localize", *words, "gama=1").err
    (tmp_path / "mask.safetensors").write_text("mine")
    told = call("localize", *words)
    assert told.code == 2 and "is in use" in told.err and (tmp_path / "mask.safetensors").read_text() == "mine"
    told = call("localize", *words, "attribution=gradient", "--overwrite")
    assert told.code == 2 and "replaces an earlier mask only" in told.err
    (tmp_path / "mask.safetensors").unlink()
    for flags in ((), ("--overwrite",)):
        assert call("localize", *words, "attribution=gradient", *flags).code == 0


def test_help_shows_the_settings_of_an_attribution(call: Callable[..., Any]) -> None:
    out = call("localize", "attribution=memflex", "--help").out
    assert "label_noise" in out and "mu" in out


def test_masks_are_compared_drawn_and_controlled(call: Callable[..., Any], words: list[str], tmp_path: Path) -> None:
    first, second, scores = (tmp_path / f"{name}.safetensors" for name in ("mask", "control", "scores"))
    call("localize", *words, "attribution=gradient", f"scores={scores}")
    told = call("mask", "complement", first, "seed=3", "scope=per_matrix", f"output={second}")
    assert told.code == 0, told.err
    mask, control = Mask.load(first), Mask.load(second)
    assert control == mask.complement(3, matched=True)
    drawing = tmp_path / "masks.svg"
    code, out, err = call("mask", "info", first, second, f"output={drawing}", f"region={first}")
    assert code == 0, err
    assert drawing.read_text().startswith("<svg") and (tmp_path / "masks-overlap.svg").is_file()
    assert "precision 1.000 (random 0.097), recall 1.000 (random 0.097)" in out  # 14 of 144
    assert "precision 0.000" in out and "made by gradient on" in out and "made by random complement" in out
    assert out.splitlines()[-4].split() == ["mask", "control", "0.000", "0.051", "0.000", "0.097"]
    again = tmp_path / "again.safetensors"
    assert call("mask", "select", scores, "count=7", "order=bottom", f"output={again}").code == 0
    assert Mask.load(again) == Scores.load(scores).select(count=7, order="bottom")
    assert "is in use" in call("mask", "select", scores, f"output={again}").err
    assert "is in use" in call("mask", "info", first, second, f"output={drawing}").err


def test_masks_of_one_name_are_told_apart_by_their_folders(
    call: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    call("localize", *words, "attribution=magnitude")
    mask = Mask.load(tmp_path / "mask.safetensors")
    paths = [mask.save(tmp_path / name / "mask.safetensors") for name in ("a", "b")]
    out = call("mask", "info", *paths).out
    assert "\na/mask\n" in out and "\nb/mask\n" in out
    assert "named twice" in call("mask", "info", paths[0], paths[0]).err
    assert "name a mask" in call("mask", "info").err
    assert "name one mask" in call("mask", "complement", *paths, "output=x").err


def test_a_report_can_show_masks(call: Callable[..., Any], words: list[str], tmp_path: Path) -> None:
    call("localize", *words, "attribution=magnitude")
    measure = Measure(value=0.5, better="lower", n=3, definition="d", source="s")
    Evaluation({"rouge": measure}).save(tmp_path / "run" / "evaluation.json")
    told = call("report", tmp_path / "run", f"masks={tmp_path}/mask.safetensors", f"output={tmp_path}/page.html")
    page = (tmp_path / "page.html").read_text()
    assert told.code == 0 and "Where the masks are" in page and "9.72 % of value vectors" in page  # 14 of 144


def test_a_selection_that_cannot_be_is_refused_before_anything_is_computed(
    call: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was scored")

    monkeypatch.setattr(import_module("expunge.localize.localize"), "localize", computed)
    for asked, message in ((("ratio=2",), "ratio must be above 0"), (("ratio=0.1", "count=3"), "got ratio and count")):
        code, _, err = call("localize", *words, *asked)
        assert code != 0 and message in err
        code, out, err = call("localize", *words, *asked, "--dry-run")
        assert code != 0 and message in out + err


def test_an_empty_mask_is_called_so() -> None:
    assert describe(0, 0.0, 0.0, "value_vector").startswith("empty: no value vector was selected")
    assert describe(3, 0.5, 0.25, "matrix") == "3 matrices (50 %), 25 % of the eligible weights"
