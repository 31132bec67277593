"""`expunge attack`: what a dry run says, deployed forms, and what is refused before anything is computed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.cli.verbs.report import _attacked
from expunge.core.manifest import Manifest
from expunge.models.load import save_model
from expunge.results.attacked import Attacked, load_attacked

SMALL = ("attacks=quantize", "settings.quantize.forms=int8")
REFUSED: dict[str, tuple[str, ...]] = {
    "unknown attack": ("attacks=quantise",),
    "unknown setting": ("settings.quantize.bits=4",),
    "unknown form": ("forms=int3",),
    "settings of an attack that is not run": ("attacks=prompts", "settings.quantize.forms=int8"),
    "a setting that is missing": ("attacks=interpolate", "settings={}"),
    "no such file": ("forget={folder}/nowhere.jsonl",),
    "no forget set": ("forget=null",),
    "no such model": ("model={folder}/nowhere",),
    "no such control": ("control={folder}/nowhere",),
    "a control with another vocabulary": ("control={folder}/narrow",),
    "a control of other facts": ("control={folder}/other",),
    "a result in use": ("output={folder}/other",),
    "a number that is none": ("settings.quantize={}", "attacks=quantize,prune", "settings.prune.shares=much"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, data: Path) -> Path:
    """A folder with the result of an attack on other facts."""
    from expunge.cli import main

    home = tmp_path_factory.mktemp("attacked")
    rows = [json.loads(line) for line in (data / "forget.jsonl").read_text().splitlines()]
    (home / "fewer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(SystemExit) as ended:
        main(["attack", f"model={model_folder}", f"forget={home}/fewer.jsonl", f"output={home}/other", *SMALL])
    assert ended.value.code == 0
    save_model(zoo.tiny_model(vocab_size=20), zoo.tokenizer(), home / "narrow")
    return home


@pytest.fixture
def words(model_folder: Path, data: Path, tmp_path: Path) -> tuple[str, ...]:
    return (
        "attack",
        f"model={model_folder}",
        f"forget={data}/forget.jsonl",
        f"retain={data}/retain.jsonl",
        f"output={tmp_path}/attacked",
    )


@pytest.mark.parametrize("case", REFUSED)
def test_a_dry_run_refuses_what_the_run_refuses(
    case: str, call: Callable[..., Any], words: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    given = tuple(word.replace("{folder}", str(folder)) for word in (*words, *SMALL, *REFUSED[case]))
    if case == "unknown form":
        given = tuple(word for word in given if word != SMALL[1])
    dry, run = call(*given, "--dry-run"), call(*given)
    assert dry.code != 0 and run.code == 2
    error = re.sub(r"(?m)^warning: .*\n", "", run.err).splitlines()
    said = next(line for line in error if line.startswith("error: ")).removeprefix("error: ")
    assert said in f"{dry.out}{dry.err}"
    assert not (tmp_path / "attacked").exists()


def test_a_dry_run_says_what_would_be_computed_and_computes_nothing(
    call: Callable[..., Any], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("expunge.models.load.load_model", None)  # whoever called it would fail
    code, out, _ = call(*words, "attacks=quantize,relearn,sampling", "threshold=0.3", "--dry-run")
    assert code == 0 and "Attacks on 6 facts" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert lines["plain"] == ["plain", "6", "6", "0"]
    assert lines["quantize"][1:] == ["12", "12", "0", "int8,", "nf4"]
    # 3 facts are measured where the other 3 are shown, else all 6, at each of 4 points of the curve.
    assert lines["relearn"][1:] == ["60", "15", "30", "forget,", "retain,", "form"]
    assert lines["sampling"][1:] == ["0", "48", "0", "best_of_4"]
    assert (
        "budget: at most 78 rows scored, 81 answers generated, 30 gradient steps, and the same on the control." in out
    )
    assert "control: untaught facts" in out and "from a recovery of 0.3 above" in out
    assert f"output: {tmp_path}/attacked/attacked.json" in out and not list(tmp_path.iterdir())


def test_the_model_may_stand_alone(call: Callable[..., Any], words: tuple[str, ...], model_folder: Path) -> None:
    others = [word for word in words if not word.startswith("model=")]
    found = call(*others, str(model_folder), *SMALL, "--dry-run")
    assert found.code == 0 and found.out == call(*words, *SMALL, "--dry-run").out
    two = call(*others, str(model_folder), "another", *SMALL, "--dry-run")
    assert two.code == 2 and "attack takes one model; got" in two.err
    again = call(*words, "another", *SMALL, "--dry-run")
    assert again.code == 0 and "warning: model is given 2 times" in again.err


@pytest.mark.slow
def test_the_result_goes_next_to_the_run_and_replaces_nothing(
    call: Callable[..., Any], words: tuple[str, ...], model_folder: Path, tmp_path: Path
) -> None:
    given = [word for word in words if not word.startswith(("output=", "model="))]
    for where in (model_folder, "user/model"):  # nothing of ours: no place of its own
        for how in ((), ("--dry-run",)):
            found = call(*given, str(where), *SMALL, *how)
            assert found.code and f"there is no run of expunge at '{where}'" in f"{found.out}{found.err}"
    run = tmp_path / "runs" / "npo"
    shutil.copytree(model_folder, run)
    Manifest(stage="unlearn", arguments={}, git=None).save(run)
    result = tmp_path / "runs/npo-attacked/attacked.json"
    dry = call(*given, str(run), *SMALL, "--dry-run")
    assert dry.code == 0 and f"output: {result}" in dry.out and not result.exists()
    assert re.search(rf"^output +{re.escape(str(result.parent))} +next to the run$", dry.out, re.MULTILINE)
    made = call(*given, str(run), *SMALL)
    assert made.code == 0 and f"result: {result}" in made.out
    written = result.read_bytes()
    again, dry = call(*given, str(run), *SMALL), call(*given, str(run), *SMALL, "--dry-run")
    assert again.code == 2 and "is in use" in again.err and "is in use" in dry.out and dry.code == 1
    assert result.read_bytes() == written and call(*given, str(run), *SMALL, "--overwrite").code == 0


def test_an_attack_from_outside_without_a_budget_is_named(
    call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_attack.py").write_text("def own_attack(model, tokenizer, corpus):\n    return []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    out = call(*words, "attacks=own_attack:own_attack", "--dry-run").out
    assert re.search(r"^own_attack:own_attack +- +- +- +unknown$", out, re.MULTILINE)
    assert "Not counted, as its budget is unknown: own_attack:own_attack." in out


def test_the_budget_is_said_before_the_run(
    call: Callable[..., Any], words: tuple[str, ...], model_folder: Path, tmp_path: Path
) -> None:
    code, out, _ = call(*words, *SMALL, f"control={model_folder}")
    assert code == 0
    assert out.splitlines()[0] == (
        "budget: at most 12 rows scored, 12 answers generated, 0 gradient steps, and the same on the control."
    )
    # The result serves as the control of another model, on which nothing is computed again.
    out = call(*words, *SMALL, f"control={tmp_path}/attacked", f"output={tmp_path}/second").out
    assert out.splitlines()[0].endswith("and nothing on the control, which was attacked before.")
    second = load_attacked(tmp_path / "second")
    assert {column.name for column in second.columns} == {"plain", "quantize.int8"} and not second.leaking
    assert second.control == "retain model"
    base = "control_is=model that never saw the rows"
    assert call(*words, *SMALL, base, f"control={model_folder}", f"output={tmp_path}/third").code == 0
    assert load_attacked(tmp_path / "third").control == "model that never saw the rows"
    assert "no control is named" in call(*words, *SMALL, base, f"output={tmp_path}/fourth").err


def test_one_command_says_what_each_deployed_form_gives(
    call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    code, out, _ = call(*words, "forms=all")
    assert code == 0
    shown = [line.split()[0] for line in out.splitlines() if line.startswith(("plain", "quantize."))]
    forms = ("bfloat16", "int8", "nf4", "q8_0", "q4_0", "bitsandbytes")
    assert shown[:7] == ["plain", *(f"quantize.{form}" for form in forms)]
    found = load_attacked(tmp_path / "attacked")
    assert all(found[f"quantize.{form}"].status == "ran" for form in forms[:-1])
    assert found["quantize.bitsandbytes"].status == "not run"
    assert "bitsandbytes" in found["quantize.bitsandbytes"].note


def test_texts_are_left_out_of_what_is_written(
    call: Callable[..., Any], words: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    assert call(*words, *SMALL, "texts=drop").code == 0
    written = (tmp_path / "attacked/attacked.json").read_text()
    rows = [json.loads(line) for line in (data / "forget.jsonl").read_text().splitlines()]
    assert not any(text in written for row in rows for text in row.values())
    assert (tmp_path / "attacked/leak_map.png").stat().st_size > 5000
    assert call(*words, *SMALL, f"control={tmp_path}/attacked", f"output={tmp_path}/second").code == 0


@pytest.mark.parametrize("forms", ["int8", "int8,nf4", "[int8, nf4]"])
def test_forms_are_read_as_a_list_however_they_are_written(
    forms: str, call: Callable[..., Any], words: tuple[str, ...]
) -> None:
    wanted = [f"quantize.{form}" for form in re.findall(r"\w+", forms)]
    for given in (("attacks=quantize", f"settings.quantize.forms={forms}"), (f"forms={forms}",)):
        out = call(*words, *given, "--dry-run").out
        (line,) = (line for line in out.splitlines() if re.match(r"quantize +\d", line))
        assert line.split()[1] == str(6 * len(wanted))
        assert [f"quantize.{form.strip(',')}" for form in line.split()[4:]] == wanted


def test_a_report_finds_results_beside_an_evaluation_and_takes_others_by_name(tmp_path: Path) -> None:
    for name in ("npo-records", "elsewhere"):
        Attacked(columns=(), questions=("a?",), answers=("a",), control=None, label=name).save(tmp_path / name)
    run, elsewhere = str(tmp_path / "npo"), str(tmp_path / "elsewhere")
    assert [found.label for found in _attacked([run], [], [])[0]] == ["npo-records"]
    assert [found.label for found in _attacked([run, run], [elsewhere], [])[0]] == ["elsewhere", "npo-records"]
    # One that lies beside the evaluation and is named, too, is shown once.
    beside = [f"{run}-records", f"{run}-records/attacked.json"]
    assert [found.label for found in _attacked([run], beside, [])[0]] == ["npo-records"]
    Attacked(columns=(), questions=("a?",), answers=("a",), control=None, label="more").save(tmp_path / "npo-attacked")
    for named in (run, f"{run}-records"):
        assert [found.label for found in _attacked([named], [], [])[0]] == ["npo-records", "more"]
