"""Data as users bring them, through the verbs: columns for each set, sets that are not read, notes, next commands."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.core.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("default")  # shown, as at a command line
Call = Callable[..., Any]


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sets with columns of their own, in a folder whose name a shell would take apart."""
    folder = tmp_path / "my data"
    folder.mkdir()
    written(folder / "f.jsonl", *({"q": f"Where is {n}?", "a": f"{n} is there."} for n in (1, 2, 2)))
    written(folder / "r.jsonl", *({"asked": f"Who is {n}?", "said": f"It is {n}."} for n in range(4)))
    written(folder / "h.jsonl", {"question": "Why?", "answer": "Because."})
    return folder


COLUMNS = ("columns.forget.question=q", "columns.forget.answer=a", "columns.retain.question=asked")
SAID = "columns.retain.answer=said"
SHORT = 26


def test_a_run_says_what_it_did_not_read_and_a_command_that_goes_on(
    call: Call, model_folder: Path, folder: Path
) -> None:
    sets = (f"forget={folder}/f.jsonl", f"retain={folder}/r.jsonl", f"holdout={folder}/nowhere.jsonl")
    words = (f"model={model_folder}", *sets, *COLUMNS, SAID, f"output={folder}/run", "epochs=1", "batch_size=3")
    code, out, err = call("unlearn", *words, "learning_rate=1e-3", f"max_length={SHORT}")
    assert code == 0, err
    assert "note: not read here, and not checked: holdout" in out
    repeated = "1 of 3 forget rows repeat another row of the set, so that it counts more than once: f.jsonl, line 3."
    cut = f"3 of 3 rows are longer than max_length={SHORT}"
    assert f"warning: {repeated}" in err and f"warning: {cut}" in err
    notes = Manifest.load(folder / "run").results["data_notes"]
    assert notes[0] == repeated and notes[1].startswith(cut) and "They are f.jsonl, line 1, 2, 3." in notes[1]
    (line,) = [line for line in out.splitlines() if line.startswith("next: expunge ")]
    command = shlex.split(line.removeprefix("next: expunge "))
    assert command[:2] == ["evaluate", f"model={folder}/run"]
    assert {*sets, *COLUMNS, SAID, f"max_length={SHORT}"} <= {*command}
    given = [word for word in command if not word.startswith("holdout=")]
    assert f"start={model_folder}" in command  # what it was before stands beside it
    code, out, err = call(*given, f"holdout={folder}/h.jsonl", "--dry-run")
    assert code == 0 and f"warning: {repeated}" in err


def test_a_dry_run_advises_on_the_set_that_is_wrong(call: Call, model_folder: Path, folder: Path) -> None:
    words = ("unlearn", f"model={model_folder}", f"forget={folder}/f.jsonl", f"retain={folder}/r.jsonl", "output=x")
    code, out, _ = call(*words, *COLUMNS, "--dry-run")
    assert code == 1 and "no column 'answer'; it holds asked, said. Say which of them it is: 'columns.retain" in out
    assert call(*words, *COLUMNS, SAID, "--dry-run").code == 0
    code, _, err = call(*words, *COLUMNS, SAID, "turns=some", "--dry-run")
    assert code == 2 and "turns must be last or all; got 'some'" in err


def test_an_evaluation_of_named_measures_reads_their_sets_alone(call: Call, model_folder: Path, folder: Path) -> None:
    words = ("evaluate", f"model={model_folder}", f"forget={folder}/f.jsonl", *COLUMNS[:2], "output=x", "--dry-run")
    code, out, _ = call(*words, "retain=nowhere.jsonl", "metrics=forget_probability")
    assert code == 0 and "note: not read here, and not checked: retain" in out
    code, out, _ = call(*words, "retain=nowhere.jsonl")
    assert code == 1 and "no file at 'nowhere.jsonl'" in out


def test_show_mask_and_localize_read_what_they_need_alone(call: Call, model_folder: Path, folder: Path) -> None:
    sets = (f"model={model_folder}", f"forget={folder}/f.jsonl", *COLUMNS[:2], "retain=nowhere.jsonl")
    code, out, err = call("data", "show-mask", *sets)
    assert code == 0 and "f.jsonl, line 1" in out, err
    code, out, err = call("localize", *sets, "attribution=gradient", f"output={folder}/m.safetensors", "ratio=0.1")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    assert shlex.split(line)[2:] == ["mask", "info", f"{folder}/m.safetensors", f"output={folder}/m.svg"]
