"""A dry run of `evaluate` refuses what the run refuses, with the same words: both ask the suite."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.models.load import save_model

REFUSED: dict[str, tuple[str, ...]] = {
    "unknown suite": ("suite=toffee",),
    "unknown measure": ("metrics=forget_qualty",),
    "metric that compares": ("metrics=relative_difference",),
    "metric of a set that is not there": ("metrics=world.repetition",),
    "no function there": ("metrics=json:dumped",),
    "no retain model": ("metrics=forget_quality",),
    "one of several": ("metrics=forget_probability,forget_quality",),
    "no holdout set": ("metrics=mia_loss",),
    "records of other rows": ("metrics=forget_relative_difference,forget_quality", "reference={folder}/other/records"),
    "no such start model": ("start={folder}/nowhere",),
    "no such column": ("suite=tofu", "metrics=forget_truth_ratio"),
    "no such set": ("suite=tofu", "metrics=world_facts_probability"),
    "an aggregate without its parts": ("suite=tofu", "metrics=agg"),
    "records that are nowhere": ("records={folder}/nowhere",),
    "records without the column": ("records={folder}/same/records", "metrics=mia_grad_norm", "suite=tofu"),
    "records and a reference of other rows": (
        "records={folder}/same/records",
        "metrics=forget_quality",
        "reference={folder}/other/records",
    ),
    "records and an unknown measure": ("records={folder}/same/records", "metrics=forget_qualty"),
    "records and a model as their reference": ("records={folder}/same/records", "reference={folder}/retain"),
    "no such reference": ("reference={folder}/nowhere",),
    "no such model": ("model={folder}/nowhere",),
    "no such file": ("forget={folder}/nowhere.jsonl",),
    "nothing to measure": ("suite=wmdp",),
    "no output": ("output=null",),
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "all that is available": (),
    "a retain model that has no records yet": ("metrics=forget_quality", "reference={folder}/retain"),
    "records of the same rows": ("metrics=forget_quality", "reference={folder}/same/records"),
    "records of other rows as a start model": ("metrics=forget_probability", "start={folder}/other/records"),
    "records alone": ("records={folder}/same/records",),
    "records and a metric by its name": ("records={folder}/same/records", "metrics=probability"),
    "a metric by its name": ("metrics=repetition,retain.exact_match",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path, model_folder: Path) -> Path:
    """A retain model, its records of the same rows, and records of other rows."""
    from expunge.cli import main

    home = tmp_path_factory.mktemp("others")
    save_model(zoo.tiny_model(seed=3, max_position_embeddings=512), zoo.tokenizer(), home / "retain")
    lines = (data / "forget.jsonl").read_text().splitlines()[:3]
    (home / "other.jsonl").write_text("\n".join(json.dumps({**json.loads(x), "question": "Why?"}) for x in lines))
    for name, forget in (("same", data / "forget.jsonl"), ("other", home / "other.jsonl")):
        words = [f"model={home}/retain", f"forget={forget}", f"retain={data}/retain.jsonl"]
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *words, f"output={home}/{name}/records"])
        assert ended.value.code == 0
    return home


def answers(
    call: Callable[..., Any], given: tuple[str, ...], model_folder: Path, data: Path, folder: Path, out: Path
) -> tuple[Any, Any]:
    of_a_model = (f"model={model_folder}", f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    from_records = any(word.startswith("records=") for word in given)
    words = ("evaluate", *(() if from_records else of_a_model), f"output={out}/records")
    words = (*words, *(word.replace("{folder}", str(folder)) for word in given))
    dry = call(*words, "--dry-run")
    assert not (out / "records").exists()
    return dry, call(*words)


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED)
def test_both_refuse_with_the_same_words(
    call: Callable[..., Any], given: tuple[str, ...], model_folder: Path, data: Path, folder: Path, tmp_path: Path
) -> None:
    dry, run = answers(call, given, model_folder, data, folder, tmp_path)
    assert run.code == 2 and dry.code in (1, 2), dry.out + dry.err
    said = plain(run.err)
    assert plain(said[said.index("error: ") + 7 :]) in plain(dry.out + dry.err)
    assert "No problem found" not in dry.out
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("given", ALLOWED.values(), ids=ALLOWED)
def test_both_let_it_pass(
    call: Callable[..., Any], given: tuple[str, ...], model_folder: Path, data: Path, folder: Path, tmp_path: Path
) -> None:
    dry, run = answers(call, given, model_folder, data, folder, tmp_path)
    assert dry.code == 0, dry.out + dry.err
    assert run.code == 0, run.out + run.err


def test_a_metric_by_its_name_is_that_of_the_forget_set(model_folder: Path) -> None:
    import expunge

    found = expunge.evaluate(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), metrics=["repetition", "retain.repetition", "forget_rouge"]
    )
    usual = expunge.evaluate(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), metrics=["forget_repetition", "retain_repetition"]
    )
    assert set(found) == {"forget.repetition", "retain.repetition", "forget_rouge"}
    assert found["repetition"].value == found["forget.repetition"].value == usual["forget_repetition"].value
    assert found["retain.repetition"].value == usual["retain_repetition"].value


def test_two_metrics_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would be `forget.repetition`, and one value would stand for the two."""
    import expunge
    from expunge.core.checks import ExpungeError

    (tmp_path / "reps_of_mine.py").write_text("def repetition(records):\n    raise AssertionError('not reached')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExpungeError, match=r"would both be called 'forget.repetition'"):
        expunge.evaluate(
            zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), metrics=["repetition", "reps_of_mine:repetition"]
        )
    twice = expunge.evaluate(
        zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), metrics=["repetition", "forget.repetition"]
    )
    assert set(twice) == {"forget.repetition"}


def test_both_refuse_a_folder_with_records_of_another_model(
    call: Callable[..., Any], model_folder: Path, data: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "same" / "records", tmp_path / "out")
    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl", f"output={tmp_path}/out")
    words = ("evaluate", f"model={model_folder}", *sets)
    dry, run = call(*words, "--dry-run"), call(*words)
    assert run.code == 2 and dry.code == 1, dry.out + dry.err
    said = "holds records of something else. Not the same: model. Choose another"
    assert said in run.err and said in plain(dry.out) and "No problem found" not in dry.out
    assert call(*words, "--dry-run", "--overwrite").code == 0
    # Of the same model they are used instead of it, and of a sound re-scoring too.
    assert call("evaluate", f"model={folder}/retain", *sets, "--dry-run").code == 0


def test_both_refuse_to_mix_an_evaluation_with_other_records(
    call: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "other" / "records", tmp_path / "out")
    words = ("evaluate", f"records={folder}/same/records", f"output={tmp_path}/out", "--overwrite")
    dry, run = call(*words, "--dry-run"), call(*words)
    said = "holds records of something else than those that are measured here"
    assert run.code == 2 and dry.code == 1 and said in plain(run.err) and said in plain(dry.out)
