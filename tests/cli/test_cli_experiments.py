"""The experiments on the embedded default, with what they run replaced: words in, tables out."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from expunge.experiments._requests import Bench, Requests
from expunge.experiments.metrics import MetaEvaluation, metrics
from expunge.results.metric_quality import Judgment


def test_the_experiments_are_listed_in_the_help_and_without_a_name(call: Callable[..., Any]) -> None:
    for words in ((), ("--help",), ("-h",)):
        code, text, _ = call("experiment", *words)
        lines = [line.split(maxsplit=1) for line in text.splitlines()]
        sentence = "Forget more and more at once: what does a larger forget set cost?"
        assert code == 0 and ["scalability", sentence] in lines
        assert not any(line[:1] == ["demo"] for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("output=here", "loku"), "'output=here' came where the name of an experiment goes"),
        (("--overwrite", "loku"), "'--overwrite' came where the name of an experiment goes"),
        (("lok",), "no experiment is called 'lok'. Did you mean 'loku'?"),
        (("loku", "rankz=4"), "no setting is called 'rankz' (from command line). Did you mean 'ranks'?"),
        (("loku", "seeds=many"), "seeds must be a whole number; got 'many'"),
        (("loku", "--resume"), "resume"),
    ],
)
def test_mistakes_are_told(call: Callable[..., Any], words: tuple[str, ...], message: str) -> None:
    code, _, err = call("experiment", *words)
    assert code == 2 and message in err


def test_metrics_shows_each_judgment_and_what_it_lacks(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    judgment = Judgment(
        metric="forget_rouge",
        knowing={"a": 0.9},
        ignorant={"b": 0.1},
        faithfulness=0.75,
        interval=(0.25, 0.96),
        threshold=0.5,
    )

    @wraps(metrics)
    def replaced(folder: str, **settings: Any) -> MetaEvaluation:
        asked.update(settings, folder=folder)
        return MetaEvaluation((judgment,), ("Few models.",), Path(folder))

    monkeypatch.setattr("expunge.experiments.metrics.metrics", replaced)
    out = tmp_path / "out"
    code, text, _ = call("experiment", "metrics", f"output={out}", "methods=npo", "rates=[1e-3]", "relearning.epochs=2")
    assert code == 0 and asked["methods"] == ("npo",) and asked["rates"] == (1e-3,)
    assert asked["relearning"] == {"epochs": 2} and asked["folder"] == str(out)
    row = next(line for line in text.splitlines() if "forget ROUGE" in line)
    assert "0.75" in row and "0.25" in row and "-" in row.split()
    assert "Few models." in text and "metrics.png" in text


@pytest.mark.parametrize(("verb", "axis"), [("sustainability", "requests"), ("scalability", "forget examples")])
def test_requests_show_a_row_each(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, axis: str
) -> None:
    # What it runs is replaced; the rest is as it is.
    values = {"forget_rouge": 0.125, "model_utility": None}
    monkeypatch.setattr(Bench, "__post_init__", lambda bench: setattr(bench, "parts", ([0] * 7,)))
    monkeypatch.setattr(Bench, "known", lambda bench, method: {7: values})
    monkeypatch.setattr(Bench, "keep", lambda *_: None)
    monkeypatch.setattr(Bench, "start", lambda *_: None)
    monkeypatch.setattr(Bench, "unlearned", lambda *_: None)
    monkeypatch.setattr(Bench, "measured", lambda *_: values)
    monkeypatch.setattr(Bench, "written", lambda bench, found, axis: Requests(found, values, axis, bench.folder))
    code, text, _ = call("experiment", verb, f"output={tmp_path / 'out'}", "methods=npo", "requests=1")
    assert code == 0 and axis in text and "start model" in text
    assert ["npo", "7", "0.125", "-"] in [line.split() for line in text.splitlines()]


def test_what_an_aggregate_is_made_of_can_be_asked(call: Callable[..., Any]) -> None:
    code, text, _ = call("evaluate", "explain=agg", "suite=tofu")
    assert code == 0 and "made of agg_memorization, agg_privacy, agg_utility" in text and "harmonic mean" in text


def test_a_dry_run_says_what_an_aggregate_lacks(call: Callable[..., Any], model_folder: Path, tmp_path: Path) -> None:
    words = ("source=synthetic", "authors=3", "forget_authors=1", "suite=tofu", "metrics=agg", f"output={tmp_path}")
    code, text, err = call("evaluate", f"model={model_folder}", *words, "--dry-run")
    assert code == 1 and "missing: it is made of agg_privacy, agg_utility" in text
    assert (
        "agg is not available. Missing: it is made of agg_privacy, agg_utility. Missing: no records of a" in text + err
    )
    assert "then reference=<folder>" in text + err
