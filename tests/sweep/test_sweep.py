"""Studies on a tiny model from end to end: candidates, masks made once, a control, going on, what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("optuna")

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.masks.mask import Mask
from expunge.models.load import load_model, save_model
from expunge.results.attacked import Attacked, Column, Leak
from expunge.results.measures import Evaluation
from expunge.sweep.measuring import area, measuring, worst
from expunge.sweep.study import StudyConfig

SEARCH: dict[str, Any] = {"learning_rate": [1e-4, 1e-2]}
STUDY: dict[str, Any] = {"objective": ("forget_probability",), "constraint": ("retain_probability >= 0.5 of start",)}
SETTINGS: dict[str, Any] = {"method": "npo", "epochs": 2, "batch_size": 3}


def sweep(folder: Path, search: Any = None, settings: Any = None, **changes: Any) -> Any:
    return expunge.sweep(
        changes.pop("model", None) or zoo.tiny_model(),
        zoo.tokenizer(),
        changes.pop("corpus", None) or zoo.corpus(),
        search=SEARCH if search is None else search,
        settings=SETTINGS if settings is None else settings,
        output_dir=folder,
        **STUDY | changes,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two rates, with and without a mask, two seeds."""
    search = {**SEARCH, "mask": [None, {"attribution": "magnitude", "ratio": 0.2}], "seed": [0, 1]}
    return sweep(tmp_path_factory.mktemp("study") / "study", search)


def test_all_is_tried_and_the_best_is_the_least_known_that_keeps_the_constraint(study: Any) -> None:
    assert len(study.trials) == 8 and {trial.state for trial in study.trials} <= {"finished", "pruned"}
    assert len(study.groups) == 4 and all(len(group.trials) == 2 for group in study.groups)
    kept = [group for group in study.groups if group.standing.feasible]
    means = [group.over_seeds("forget_probability")[0] for group in kept]
    assert kept and means == sorted(means) and study.groups[: len(kept)] == tuple(kept)
    least = 0.5 * study.start["retain_probability"]
    assert all(trial.measures["retain_probability"] >= least for group in kept for trial in group.trials)


def test_the_best_candidate_of_each_run_is_what_is_kept(study: Any) -> None:
    for trial in study.trials:
        losses = [(study.standing(measures).order, step) for step, measures in trial.candidates]
        assert trial.told["step"] == min(losses)[1]
        assert [step for step, _ in trial.candidates] == [2, 4][: len(losses)]
        kept = sorted(path.name for path in (trial.folder / "run" / "checkpoints").glob("*"))
        assert kept == ([] if trial.told["step"] == trial.told["steps"] else [f"checkpoint-{trial.told['step']}"])


def test_a_kept_model_measures_what_its_trial_says(study: Any) -> None:
    for trial in (
        study.best,
        next(t for t in study.trials if t.told["step"] != t.told["steps"] or t is study.trials[-1]),
    ):
        model = load_model(trial.model)
        found = expunge.evaluate(model, zoo.tokenizer(), zoo.corpus(), metrics=["forget_probability"])
        assert float(found["forget_probability"]) == pytest.approx(trial.measures["forget_probability"], rel=1e-4)
        place = Path(str(trial.model).replace("/run", "/run-records", 1))
        saved = Evaluation.load(place / "evaluation.json")
        assert saved.label == f"trial {trial.number}"
        assert float(saved["forget_probability"]) == pytest.approx(trial.measures["forget_probability"], rel=1e-6)


def test_a_mask_is_made_once_and_holds(study: Any) -> None:
    (file,) = (study.folder / "masks").glob("*.safetensors")
    assert Mask.load(file).share().units == pytest.approx(0.2, abs=0.01)
    start = zoo.tiny_model().state_dict()
    masked = [trial for trial in study.trials if trial.told["settings"]["mask"] is not None]
    assert len(masked) == 4
    end = load_model(masked[0].folder / "run").state_dict()
    changed = sum(int((end[name] != start[name]).sum()) for name in end)
    assert 0 < changed <= 0.2 * sum(tensor.numel() for tensor in start.values())


def test_compare_and_report_take_a_study(study: Any, tmp_path: Path) -> None:
    from expunge.comparison.run_folders import groups, opened
    from expunge.report.compared_models import gather
    from expunge.results.studies import models_of

    folders, others = opened(study.folder)
    assert len(folders) == 8 and others == []
    assert sorted(set(groups(folders).values()), key=len)[0].endswith("(2 seeds)")
    assert len({*groups(folders).values()}) == 4  # the same groups as by recipe
    models = gather([str(path) for path in [study.folder / "start-records", *models_of(study.folder)]])
    assert [one.label for one in models] == ["start model", *(f"trial {i}" for i in range(8))]


def test_several_objectives_and_a_model_that_is_left_as_it_was(tmp_path: Path) -> None:
    model = zoo.tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    both = ("forget_probability", "aues")
    found = sweep(tmp_path / "study", {"learning_rate": [1e-2]}, model=model, objective=both, constraint=())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [str(one) for one in found.objectives] == ["minimize forget_probability", "maximize aues"]
    (trial,) = found.trials
    path = [found.start, *(measures for _, measures in trial.candidates)]
    assert [measures["aues"] for measures in path[1:]] == [area(path[:2]), area(path[:3])]
    assert {one.number for one, _, _ in found.front} == {0}


def test_candidates_of_an_adapter_load_as_models(tmp_path: Path) -> None:
    search = {"adapter": [None, "lora"], "lora.rank": [2], "learning_rate": [1e-2]}
    plain, lora = sweep(tmp_path / "study", search, constraint=()).trials
    assert plain.point == {"adapter": "null", "learning_rate": "0.01"} and lora.point["lora.rank"] == "2"
    for trial in (plain, lora):
        found = expunge.evaluate(load_model(trial.model), zoo.tokenizer(), zoo.corpus(), metrics=["forget_probability"])
        assert float(found["forget_probability"]) == pytest.approx(trial.measures["forget_probability"], rel=1e-4)


def test_all_candidates_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    (trial,) = sweep(tmp_path / "study", {"learning_rate": [1e-2]}, keep="all", every=0.5).trials
    assert [step for step, _ in trial.candidates] == [1, 2, 3, 4]
    folders = sorted(path.name for path in (trial.folder / "run" / "checkpoints").iterdir())
    assert folders == [f"checkpoint-{step}" for step in (1, 2, 3)]  # the last one is the run itself
    for step, measures in trial.candidates:
        model = load_model(trial.folder / "run" / (f"checkpoints/checkpoint-{step}" if step < 4 else ""))
        found = expunge.evaluate(model, zoo.tokenizer(), zoo.corpus(), metrics=["forget_probability"])
        assert float(found["forget_probability"]) == pytest.approx(measures["forget_probability"], rel=1e-4)


def test_a_hopeless_run_ends_early_and_is_kept_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["expunge.sweep.worker"], "_look", lambda *_: "hopeless")
    (trial,) = sweep(tmp_path / "study", {"learning_rate": [1e-2]}).trials
    assert (trial.state, trial.told["why"], trial.told["steps"]) == ("pruned", "hopeless", 2)
    assert expunge.Manifest.load(trial.folder / "run").results["planned_steps"] == 4


def test_a_run_that_cannot_go_on_is_kept_with_its_reason(tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ExpungeError("the loss is not finite")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["expunge.sweep.trial"], "unlearn", broken)
        found = sweep(tmp_path / "study", {"learning_rate": [1e-2]})
    assert [(trial.state, trial.told["why"]) for trial in found.trials] == [("failed", "the loss is not finite")]
    assert found.best is None and found.groups == () and json.loads((found.folder / "study.json").read_text())


def test_a_launcher_s_processes_are_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ExpungeError, match="a worker of a sweep is one process"):
        sweep(tmp_path / "study", settings=SETTINGS | {"batch_size": 4})


def test_a_study_is_gone_on_with_and_replayed(tmp_path: Path) -> None:
    search = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    first = sweep(tmp_path / "study", search, trials=1, sampler="random")
    times = (tmp_path / "study/trials/0000/trial.json").stat().st_mtime_ns
    more = sweep(tmp_path / "study", search, trials=2, sampler="random")
    assert [trial.point for trial in more.trials][:1] == [trial.point for trial in first.trials]
    assert (tmp_path / "study/trials/0000/trial.json").stat().st_mtime_ns == times and len(more.trials) == 2
    again = sweep(tmp_path / "again", search, replay=str(tmp_path / "study"), sampler="random")
    assert [trial.point for trial in again.trials] == [trial.point for trial in more.trials]
    assert [trial.measures for trial in again.trials] == [trial.measures for trial in more.trials]
    with pytest.raises(ExpungeError, match=r"holds another study. Not the same: study.seed"):
        sweep(tmp_path / "study", search, trials=2, sampler="random", seed=1)
    with pytest.raises(ExpungeError, match=r"Not the same: settings.epochs"):
        sweep(tmp_path / "study", search, SETTINGS | {"epochs": 1}, trials=2, sampler="random")
    with pytest.raises(ExpungeError, match=r"Not the same: data.forget"):
        sweep(tmp_path / "study", search, corpus=zoo.corpus(4), trials=2, sampler="random")


def test_recovery_above_a_control(tmp_path: Path) -> None:
    control = save_model(zoo.tiny_model(seed=3), zoo.tokenizer(), tmp_path / "control")
    found = sweep(
        tmp_path / "study",
        {"learning_rate": [1e-2]},
        objective=(),
        control=str(control),
        attacks=("quantize",),
        constraint=("forget_probability <= 1", "recovery <= 0.5"),
    )
    assert [str(one) for one in found.objectives] == ["minimize recovery"]
    (trial,) = found.trials
    assert trial.measures["recovery"] == pytest.approx(trial.standing.losses[0])
    held = json.loads((tmp_path / "study/control/attacked.json").read_text())
    assert held["columns"][0]["name"] == "plain"
    assert "Where does Arvo" not in (tmp_path / "study/control/attacked.json").read_text()  # no text of the forget set


def column(name: str, values: tuple[float, ...], control: tuple[float, ...], **changes: Any) -> Column:
    def leak(held: tuple[float, ...]) -> Leak:
        return Leak(name=name, measure="x", facts=tuple(range(len(held))), values=held, **changes)

    return Column(name=name, leak=leak(values), control=leak(control), threshold=0.2)


def test_the_worst_recovery_by_hand() -> None:
    columns = (
        column("plain", (0.5, 0.3), (0.1, 0.1)),  # 0.3 above
        column("quantize", (0.9, 0.7), (0.1, 0.3)),  # 0.6 above
        Column(name="none", leak=None, control=None, threshold=0.2, note="not run"),
    )
    found = Attacked(columns=columns, questions=("a", "b"), answers=("c", "d"), control="retain model", label="m")
    assert worst(found) == pytest.approx(0.6)


def test_the_area_along_a_run_by_hand() -> None:
    def at(known: float, kept: float) -> dict[str, float]:
        return {"forget_extraction_strength": known, "retain_extraction_strength": kept}

    assert area([at(1.0, 1.0)]) == 0
    assert area([at(1.0, 1.0), at(0.5, 0.8)]) == pytest.approx(0.4)
    assert area([at(1.0, 1.0), at(0.5, 0.8), at(0.0, 0.2)]) == pytest.approx(0.4 + 0.5 * 0.2)
    assert area([at(1.0, 1.0), at(float("nan"), 0.8)]) == 0


def test_utility_stands_for_what_the_data_allow() -> None:
    config = StudyConfig(rows=2)
    plain = measuring(config, zoo.tokenizer(), zoo.corpus())
    assert plain.constraints[0].measure == "retain_extraction_strength" and plain.suite == "default"
    assert plain.asked == (("forget_extraction_strength", None),)
    assert {split: len(plain.corpus[split]) for split in plain.corpus} == {"forget": 2, "retain": 2}
    corpus = zoo.corpus()
    wrong = [
        expunge.Example(kind="qa", prompt=e.prompt, completion=e.completion, perturbed=("In no town.",))
        for e in corpus["retain"]
    ]
    full = Corpus(
        {**corpus.splits, "retain": tuple(wrong), "real_authors": tuple(wrong), "world_facts": tuple(wrong)}, "full"
    )
    found = measuring(config, zoo.tokenizer(), full)
    assert found.constraints[0].measure == "model_utility" and found.suite == "tofu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"learning_rate": [1e-4, 3.0]}}, "learning_rate must be between 0 and 1; got 3.0"),
        ({"search": {"learning_rat": [1e-4]}}, "'learning_rat'"),
        ({"search": {"simnpo.beta": [1.0]}}, "no method, retain loss or adapter of this study"),
        ({"search": {"mask": [{"attribution": "magnitud"}]}}, "no attribution is called 'magnitud'"),
        ({"search": {"mask": [{"ratio": 0.1}]}}, "the recipe of a mask names its attribution"),
        ({"search": {"mask": [{"attribution": "magnitude", "ratio": 3.0}]}}, "ratio must be above 0 and at most 1"),
        ({"search": {"keep_checkpoints": [1, 2]}}, "keep_checkpoints is decided by the study"),
        ({"search": {"gamma": {"low": 0.5, "high": 1.0}}}, "a study needs an end"),
        ({"objective": ("recovery",)}, "the study names none: control="),
        ({"objective": ("forget_probabilit",)}, "Did you mean 'forget_probability'"),
        ({"constraint": ("aues >= 0.9 of start",)}, "the start model has no aues"),
        ({"trails": 3}, "no setting of a study is called 'trails'"),
        ({"search": {}}, "search names no setting"),
        ({"replay": "nowhere"}, "replay=nowhere holds no finished trial"),
    ],
)
def test_what_is_refused_before_anything_is_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpungeError) as caught:
        sweep(tmp_path / "study", **changes)
    assert message in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ExpungeError, match="is in use, and holds no study"):
        sweep(tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["a.txt"]
