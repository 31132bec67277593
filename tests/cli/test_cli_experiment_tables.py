"""Experiments on a model and data of one's own: what they print, and what they refuse."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

import zoo
from expunge.experiments.loku import Line, Loku, loku


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two texts to forget, and one that is unseen."""
    (tmp_path / "forget.txt").write_text("Arvo lives in a town by the sea.\nArvo keeps a boat and a house there.\n")
    (tmp_path / "unseen.txt").write_text("Belda walks in the town at noon.\n")
    return tmp_path


@pytest.mark.filterwarnings("always:the level of unseen text")
def test_tdec_prints_before_and_after_and_whether_it_is_forgotten(
    call: Callable[..., Any], model_folder: Path, texts: Path
) -> None:
    code, out, err = call(
        *("experiment", "tdec", f"model={model_folder}", "source=tdec", f"path={texts}", "forget=forget.txt"),
        *("holdout=unseen.txt", "sequences=2", "arms=grad_ascent", f"output={texts}/out"),
        *("settings.epochs=2", "settings.learning_rate=1e-6"),
    )
    assert code == 0, err
    assert "memorization accuracy" in out and "start model" in out and "unseen text: extraction likelihood" in out
    stored = json.loads((texts / "out/tdec.json").read_text())["rows"][1]
    assert "warning: the level of unseen text is a doubtful goal: " in err and "rests on 1 text." in err
    verdict = "forgotten" if stored["forgotten"] else "not forgotten"
    assert f"grad_ascent: {verdict} after {stored['steps']} steps" in out


def test_a_run_stops_by_a_suite_of_its_own(call: Callable[..., Any], model_folder: Path, texts: Path) -> None:
    words = ("unlearn", f"model={model_folder}", "source=tdec", f"path={texts}", "forget=forget.txt", "sequences=2")
    words += ("holdout=unseen.txt", "method=grad_ascent", "epochs=3", "batch_size=2", f"output={texts}/run")
    code, _, err = call(*words, "stop=extraction_likelihood<0", "stop_suite=tdec")
    assert code == 0, err
    results = json.loads((texts / "run/manifest.json").read_text())["results"]
    assert results["steps"] == 3 and results["stop_look"].keys() == {"step", "extraction_likelihood"}
    code, out, err = call(*words, "stop=extraction_likelihood<=1", "--overwrite")
    assert code == 2 and "only by a suite with this metric, such as tdec" in out + err


@pytest.mark.slow
def test_wagle_prints_its_columns_and_why_some_are_missing(
    call: Callable[..., Any], model_folder: Path, tmp_path: Path
) -> None:
    for split in ("forget", "retain"):
        rows = [
            {
                "question": e.prompt,
                "answer": e.completion,
                "paraphrased_question": f"Say: {e.prompt}",
                "paraphrased_answer": f"It is {e.completion}",
                "perturbed_answer": ["In a boat.", "In Rome."],
            }
            for e in zoo.corpus()[split]
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = call(
        *("experiment", "wagle", f"model={model_folder}", f"forget={tmp_path}/forget.jsonl"),
        *(f"retain={tmp_path}/retain.jsonl", f"output={tmp_path}/out", "arms=dense,random", "ratios=0.3", "seeds=2"),
        *("settings.epochs=1", "settings.batch_size=3"),
    )
    assert code == 0, err
    assert "start model" in out and "random" in out and "±" in out and "1-RL" in out
    reasons = [line for line in out.splitlines() if line.startswith("no ")]
    assert any("authors acc" in line and "real_authors" in line for line in reasons)
    assert "4 runs, about" in err


def test_loku_says_what_is_missing_and_why(tmp_path: Path) -> None:
    levels = {"start model": {"forget_quality": 1e-3}, "retain model": {}}
    lines = [Line("ihl", 4, 1e-3, {"forget_quality": 0.5}, {"forget_quality": 0.25})]
    rows = [{"seed": 0}, {"seed": 1}]
    made = Loku(levels, lines, rows, [], ("forget_quality",), {"model_utility": "Missing: no rows."}, tmp_path)
    text = made.text().splitlines()
    assert "forget quality compares with the retain model, which therefore has none of its own" in text
    assert "no model utility: no rows." in text and "mean ± standard deviation over 2 seeds" in text
    (table,) = made.tables()
    assert table.header == ("model", "rate", "forget quality")
    assert table.rows == [("start model", "", "0.001"), ("retain model", "", "-"), ("ihl r4", "0.001", "0.5 ± 0.25")]


def test_data_settings_reach_an_experiment_as_a_corpus(
    call: Callable[..., Any], model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    @wraps(loku)
    def made(*where: Any, **given: Any) -> str:
        seen.update(given, where=where)
        return "done"

    monkeypatch.setattr("expunge.experiments.loku.loku", made)
    words = ("experiment", "loku", f"model={model_folder}")
    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    code, out, err = call(*words, *sets, "ranks=2,4", "--overwrite", "rates.ihl=1e-3", f"output={tmp_path}/out")
    assert code == 0 and "done" in out, err
    assert {split: len(seen["corpus"][split]) for split in seen["corpus"]} == {"forget": 6, "retain": 10}
    assert seen["where"] == (f"{tmp_path}/out",) and seen["overwrite"] is True and callable(seen["progress"])
    assert (seen["model"], seen["ranks"], seen["rates"]) == (model_folder, (2, 4), {"ihl": 1e-3})
    # What a source takes beside them goes to the source, unless the experiment has a setting of that name.
    seen.clear()
    code, out, err = call(*words, "source=synthetic", "forget_authors=2", "facts=2", "authors=4")
    assert code == 0, err
    assert len(seen["corpus"]["forget"]) == 4 and seen["authors"] == 4 and "facts" not in seen
    # Without any, there is no corpus, and the experiment's own defaults hold.
    seen.clear()
    assert call(*words).code == 0 and seen.keys() == {"model", "overwrite", "progress", "where"} and seen["where"] == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("wagle", "arms=dens"), "no arm of the experiment is called 'dens'"),
        (("wagle", "authors=1"), "authors must be at least 2"),
        (("wagle", "source=synthetic"), "one is missing: model=<folder>"),
        (("loku", "model=here"), "one is missing: the corpus"),
        (("loku", "forget=missing.jsonl"), "missing.jsonl"),
        (("tdec", "template=plain"), "no setting is called 'template'"),
        (("tdec", "arms=ascent"), "no arm of the experiment is called 'ascent'"),
        (("tdec", "facts=13"), "facts"),
        (("tdec", "stop_every=0"), "stop_every must be above 0"),
        (("metrics", "seeds=0"), "seeds must be at least 1"),
        (("scalability", "authors=1"), "authors must be at least 2"),
    ],
)
def test_mistakes_are_told(call: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    code, out, err = call("experiment", *words, f"output={tmp_path}/out")
    assert code == 2 and message in out + err
    assert not (tmp_path / "out").exists()
