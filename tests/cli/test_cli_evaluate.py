"""`expunge evaluate`: models, records, references, explanations, dry runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.cli.verbs.evaluate import show
from expunge.core.manifest import Manifest
from expunge.results.measures import Evaluation, Measure

MEASURES = {
    "forget_probability": Measure(
        value=0.25, better="lower", definition="d", source="s", n=6, interval=(0.125, 0.5), note="a [bold] note"
    ),
    "privleak": Measure(value=None, better="near", definition="d", source="s", n=0, note="Missing: holdout."),
}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the stage was called with, call by call; it measures the same whatever comes."""
    calls: list[dict[str, Any]] = []

    def evaluate(*objects: Any, **settings: Any) -> Evaluation:
        calls.append(settings | {"objects": objects})
        return Evaluation(MEASURES, label=settings.get("label") or "model")

    monkeypatch.setattr("expunge.evaluation.evaluate.evaluate", evaluate)
    return calls


@pytest.fixture
def ours(model_folder: Path, tmp_path: Path) -> Path:
    """A model that was made here: a manifest lies beside it."""
    folder = tmp_path / "ours"
    shutil.copytree(model_folder, folder)
    Manifest(stage="train", arguments={}).save(folder)
    return folder


@pytest.fixture
def sets(data: Path) -> tuple[str, ...]:
    """The user's data."""
    return (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")


def test_sources_name_the_sets_that_a_chosen_measure_reads(
    call: Callable[..., Any], stage: list[Any], ours: Path, tmp_path: Path
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mmlu_law.jsonl").write_text(
        '{"question": "Is 2 even?", "choices": ["yes", "no"], "answer": 0}\n'
    )
    for suite in ("wmdp", "multiple_choice"):
        words = ("source=wmdp", f"path={tmp_path}/tasks", f"suite={suite}", "metrics=mmlu_law_accuracy")
        code, _, err = call("evaluate", f"model={ours}", *words)
        assert (code, err) == (0, "") and list(stage[-1]["objects"][2]) == ["mmlu_law"]


def test_every_measure_is_shown(call: Callable[..., Any], stage: list[Any], ours: Path, sets: tuple[str, ...]) -> None:
    code, out, _ = call("evaluate", f"model={ours}", *sets)
    assert code == 0
    assert out.splitlines()[1:5] == [
        "ours, suite default",
        "measure             value  95 % interval  better       n  note",
        "forget_probability   0.25  0.125–0.5      lower        6  a [bold] note",
        "privleak                -                 near target  0  Missing: holdout.",
    ]


def test_settings_reach_the_stage(
    call: Callable[..., Any], stage: list[Any], ours: Path, sets: tuple[str, ...]
) -> None:
    metrics = ("forget_probability", "retain_rouge")
    words = (f"metrics={','.join(metrics)}", "suite=tofu", "batch_size=4", "label=x", "--overwrite")
    call("evaluate", f"model={ours}", *sets, *words)
    (settings,) = stage
    assert settings["metrics"] == metrics and settings["suite"] == "tofu" and settings["batch_size"] == 4
    assert settings["label"] == "x" and settings["overwrite"] is True
    _, _, corpus = settings["objects"]
    assert {s: len(corpus[s]) for s in corpus} == {"forget": 6, "retain": 10}


def test_records_of_our_models_lie_beside_them(
    call: Callable[..., Any], stage: list[Any], ours: Path, model_folder: Path, sets: tuple[str, ...], tmp_path: Path
) -> None:
    call("evaluate", f"model={ours}", *sets)
    assert stage[0]["output_dir"] == ours.with_name(f"{ours.name}-records")
    call("evaluate", f"model={model_folder}", *sets, f"output={tmp_path}/x")
    assert stage[1]["output_dir"] == tmp_path / "x"
    code, _, err = call("evaluate", f"model={model_folder}", *sets)
    assert code == 2 and "output is missing" in err and len(stage) == 2
    inside = call("evaluate", f"model={ours}", *sets, f"output={ours}/records").out
    assert f"note: the records hold texts of the data and go into the model folder {ours}" in inside
    assert "note: " not in call("evaluate", f"model={ours}", *sets, f"output={ours}/records", "texts=drop").out
    assert [settings["texts"] for settings in stage] == ["keep", "keep", "keep", "drop"]


def test_the_seed_of_a_source_is_not_set_here(call: Callable[..., Any], stage: list[Any], ours: Path) -> None:
    # `seed` is a training setting: what trained with seed=1 must be measured on the same made-up authors.
    words = ("evaluate", f"model={ours}", "source=synthetic", "authors=3", "forget_authors=1")
    assert call(*words).code == 0 and len(stage[0]["objects"][2]["forget"]) == 8
    code, _, err = call(*words, "seed=1")
    assert code == 2 and "no setting is called 'seed' (from command line)" in err


class TestOtherModels:
    def test_a_run_without_records_gets_them_first(
        self,
        call: Callable[..., Any],
        stage: list[Any],
        ours: Path,
        sets: tuple[str, ...],
        tmp_path: Path,
    ) -> None:
        retain = tmp_path / "retain"
        shutil.copytree(ours, retain)
        out = call("evaluate", f"model={ours}", *sets, f"reference={retain}", "metrics=forget_quality").out
        first, second = stage
        assert first["output_dir"] == retain.with_name("retain-records") and "reference" not in first
        assert first["metrics"] is None  # the retain model has no retain model to be compared with
        assert second["reference"] == str(retain.with_name("retain-records")) and second["metrics"] == (
            "forget_quality",
        )
        assert f"reference: no records of {retain} yet; making them in {retain}-records" in out

    def test_nothing_is_written_into_folders_of_others(
        self,
        call: Callable[..., Any],
        stage: list[Any],
        ours: Path,
        model_folder: Path,
        sets: tuple[str, ...],
    ) -> None:
        words = ("evaluate", f"model={ours}", *sets, f"reference={model_folder}")
        out = call(*words).out
        first, second = stage
        assert second["reference"] == str(first["output_dir"]) and model_folder not in first["output_dir"].parents
        assert f"reference: no records next to {model_folder}; they are kept in the cache" in out
        call(*words, "max_length=64")
        assert stage[2]["output_dir"] != first["output_dir"]  # of other content

    @pytest.mark.filterwarnings("ignore:6 of 6 forget examples are in the holdout set too")
    def test_a_measure_on_request_is_made_of_the_other_model_too(
        self, call: Callable[..., Any], stage: list[Any], ours: Path, model_folder: Path, sets: tuple[str, ...]
    ) -> None:
        holdout = sets[0].replace("forget=", "holdout=")
        call(
            "evaluate",
            f"model={ours}",
            *sets,
            holdout,
            f"reference={model_folder}",
            "suite=tofu",
            "metrics=mia_grad_norm",
        )
        assert "mia_grad_norm" in stage[0]["metrics"] and "forget_probability" in stage[0]["metrics"]

    @pytest.mark.parametrize("inside", ["", "records"])
    def test_records_that_are_there_are_used(
        self, call: Callable[..., Any], stage: list[Any], ours: Path, sets: tuple[str, ...], tmp_path: Path, inside: str
    ) -> None:
        folder = tmp_path / "retain" / inside
        folder.mkdir(parents=True)
        (folder / "records.parquet").touch()
        (tmp_path / "retain" / "config.json").touch()
        call("evaluate", f"model={ours}", *sets, f"start={tmp_path}/retain")
        assert len(stage) == 1 and stage[0]["start"] == f"{tmp_path}/retain"


class TestRecordsAlone:
    def test_no_model_is_touched(self, call: Callable[..., Any], stage: list[Any]) -> None:
        code, out, _ = call("evaluate", "records=runs/x", "reference=retain.json", "metrics=forget_probability")
        assert code == 0 and "forget_probability" in out
        assert stage[0]["records"] == "runs/x" and stage[0]["reference"] == "retain.json"
        assert stage[0]["objects"] == () and stage[0]["output_dir"] is None

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "got neither"),
            (["model=m", "records=r"], "got both"),
            (["records=r", "forget=f.jsonl"], "forget goes with a model"),
            (["records=r", "max_length=7"], "max_length goes with a model"),
        ],
    )
    def test_either_records_or_a_model(
        self, call: Callable[..., Any], stage: list[Any], words: list[str], message: str
    ) -> None:
        code, _, err = call("evaluate", *words)
        assert code == 2 and message in err and not stage


class TestExplain:
    def test_a_metric(self, call: Callable[..., Any]) -> None:
        code, out, _ = call("evaluate", "--explain", "extraction_strength")
        assert code == 0
        for line in ("definition: ", "better: lower on the forget set, higher elsewhere", "source: ", "Source: "):
            assert f"\n{line}" in f"\n{out}"

    def test_a_measure_of_a_suite(self, call: Callable[..., Any]) -> None:
        out = call("evaluate", "--explain", "forget_rouge").out
        assert "forget_rouge: rouge with records = forget/question/answer of the model\ndefinition: " in out

    def test_neither(self, call: Callable[..., Any]) -> None:
        code, _, err = call("evaluate", "--explain=roug")
        assert (
            code == 2 and "no metric or measure of the suite 'default' is called 'roug'. Did you mean 'rouge'?" in err
        )


class TestDryRun:
    def test_what_would_be_measured(
        self, call: Callable[..., Any], stage: list[Any], ours: Path, sets: tuple[str, ...]
    ) -> None:
        code, out, _ = call("evaluate", f"model={ours}", *sets, "--dry-run")
        assert code == 0 and not stage and not (ours.with_name(f"{ours.name}-records")).exists()
        rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
        assert rows["output"] == f"{ours}-records next to the model"
        assert rows["forget_probability"] == "available"
        assert rows["forget_truth_ratio"] == "available, made by rule"
        assert rows["forget/question/borrowed"].split()[0] == "18"
        assert rows["mia_loss"].startswith("missing: the corpus has no split 'holdout'")
        assert rows["forget/question/answer"].split()[0] == "6" and rows["forget/question/answer"].split()[2] == "6"
        assert "First row: " in out

    def test_a_measure_that_was_asked_for_and_cannot_be_had(
        self, call: Callable[..., Any], ours: Path, sets: tuple[str, ...]
    ) -> None:
        code, out, _ = call("evaluate", f"model={ours}", *sets, "metrics=forget_quality", "--dry-run")
        assert code == 1 and "- forget_quality is not available. Missing: " in out and "then reference=<folder>" in out

    def test_other_models_that_are_not_there(
        self, call: Callable[..., Any], ours: Path, sets: tuple[str, ...], tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "config.json").write_text("{}")
        others = (f"reference={tmp_path}/nowhere", f"start={tmp_path}/empty")
        code, out, _ = call("evaluate", f"model={ours}", *sets, *others, "--dry-run")
        missing = out[out.index("\nProblems\n") :]
        assert code == 1 and f"{tmp_path}/nowhere" in missing and f"'{tmp_path}/empty' has no weights" in missing


@pytest.mark.parametrize("role", ["start", "reference"])
def test_records_of_another_forget_set_are_told(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    measure = Measure(value=0.5, better="lower", definition="d", source="s", n=3)
    for theirs, told in (("xxh3:1", False), ("xxh3:2", True)):
        about = {"inputs": {"data.forget": "xxh3:1"}, role: {"data.forget": theirs}, "paths": {role: "runs/other"}}
        show(Evaluation({"forget_rouge": measure}, about=about))
        assert (
            f"warning: the records of {role}=runs/other are of another forget set" in capsys.readouterr().err
        ) is told
    show(Evaluation({"forget_rouge": measure}, about={role: {}}))
    assert capsys.readouterr().err == ""
