"""The verbs that train nothing: list, data show-mask, report, demo."""

import ast
import json
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import zoo
from expunge.cli.verbs import demo
from expunge.core.catalogue import KINDS, names
from expunge.results.curves import Comparison, Curve, Point
from expunge.results.measures import Evaluation, Measure


class TestList:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_name_has_its_sentence(self, call: Callable[..., Any], kind: str) -> None:
        code, out, _ = call("list", kind.replace("_", "-"))
        lines = out.splitlines()[1:]
        assert code == 0 and [line.split()[0] for line in lines] == names(kind) and lines
        assert all(len(line.split()) > 2 and line.endswith((".", "?", ".”")) for line in lines), lines

    def test_sentences_are_those_of_the_functions(self, call: Callable[..., Any]) -> None:
        from expunge.objectives.forget.npo import npo

        assert f"npo  {'':<9}{str(npo.__doc__).splitlines()[0]}".split() in [
            line.split() for line in call("list", "methods").out.splitlines()
        ]

    def test_a_name_shows_its_settings(self, call: Callable[..., Any]) -> None:
        out = call("list", "attacks", "quantize").out
        assert out.startswith("attack quantize\n") and re.search(
            r"^  forms: list of text = int8,nf4\n", out, re.MULTILINE
        )
        shown = set(re.findall(r"^  (\w+): ", call("list", "attacks", "relearn").out, re.MULTILINE))
        assert {"steps", "on"} <= shown and not shown & {"seed", "template", "max_length", "progress"}
        assert "no attack is called 'quantise'" in call("list", "attacks", "quantise").err

    def test_plugins_say_where_they_come_from(self, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        plugin = EntryPoint("theirs", "package.module:function", KINDS["experiments"].group)

        def installed(*, group: str) -> list[EntryPoint]:
            return [plugin] if group == KINDS["experiments"].group else []

        monkeypatch.setattr("expunge.core.catalogue.entry_points", installed)
        assert re.search("theirs +from package.module:function", call("list", "experiments").out)

    def test_mistakes(self, call: Callable[..., Any]) -> None:
        known = ", ".join(sorted([*KINDS, "presets"]))
        assert call("list", "method")[::2] == (
            2,
            f"error: no kind of thing is called 'method'. Did you mean 'methods'? Known: {known}.\n",
        )
        out = call("list").out
        assert re.search("methods +unlearning method +2[0-9]", out) and "adapters" in out


class TestShowMask:
    def test_supervised_tokens_are_marked(self, call: Callable[..., Any], model_folder: Path, data: Path) -> None:
        words = (
            "data",
            "show-mask",
            f"tokenizer={model_folder}",
            f"forget={data}/forget.jsonl",
            "row=2",
            "--rows",
            "2",
        )
        code, out, _ = call(*words)
        assert code == 0 and out.count("are supervised") == 2
        third = zoo.corpus()["forget"][2]
        block = out.split("\nRow ")[1]
        assert block.startswith("2 (forget.jsonl, line 3): ")
        text = block.split("\n", 1)[1]
        supervised = "".join(part.partition("»")[0] for part in text.split("«")[1:])
        prompt = "".join(part.rpartition("»")[2] for part in text.split("«"))
        assert supervised.strip().startswith(third.completion) and third.completion not in prompt
        assert f"Question: {third.prompt}\\nAnswer:" in prompt.replace("\n", "")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["forget={data}/forget.jsonl"], "name a tokenizer: tokenizer=<folder or hub id>"),
            (["model={model}", "forget={data}/forget.jsonl", "row=6"], "row must be between 0 and 5; got 6."),
            (
                ["model={model}", "forget={data}/forget.jsonl", "split=retain"],
                "reads the set retain, and what came is forget",
            ),
            (["model={model}", "forget={data}/forget.jsonl", "rows=0"], "rows must be at least 1; got 0."),
        ],
    )
    def test_mistakes(
        self, call: Callable[..., Any], model_folder: Path, data: Path, words: list[str], message: str
    ) -> None:
        code, _, err = call("data", "show-mask", *(word.format(data=data, model=model_folder) for word in words))
        assert code == 2 and message in err


def evaluation(label: str, value: float) -> Evaluation:
    measure = Measure(value=value, better="lower", definition="d", source="s", n=3)
    return Evaluation({"forget_probability": measure}, label=label)


class TestReport:
    def test_paths_and_settings_in_any_order(self, call: Callable[..., Any], tmp_path: Path) -> None:
        for label, value in (("first", 0.25), ("second", 0.75)):
            evaluation(label, value).save(tmp_path / label / "evaluation.json")
        words = (
            tmp_path / "first",
            "--start",
            "first",
            tmp_path / "second",
            f"output={tmp_path}/page.html",
            "title=T1",
        )
        code, out, _ = call("report", *words)
        page = (tmp_path / "page.html").read_text()
        assert code == 0 and "first (start model)" in out and "0.75" in out and f"report: {tmp_path}/page.html" in out
        assert "T1" in page and "second" in page
        assert "\nsecond: No fact of the forget set can be judged.\n- " in out and "\n- No attack was tried" in out

    def test_start_and_retain_model_are_folders_as_elsewhere(self, call: Callable[..., Any], tmp_path: Path) -> None:
        for label, value in (("start", 0.9), ("never", 0.1), ("npo", 0.2)):
            evaluation(label, value).save(tmp_path / f"{label}-records" / "evaluation.json")
        roles = (f"start={tmp_path}/start-records", f"retain={tmp_path}/never", f"baseline={tmp_path}/never-records")
        code, out, _ = call("report", tmp_path / "npo", *roles, f"output={tmp_path}/page.json", "format=json")
        told = json.loads((tmp_path / "page.json").read_text())
        assert code == 0 and "npo: No fact" in out
        assert [(m["label"], m["role"]) for m in told["models"]] == [
            ("start", "start"), ("never", "retain"), ("npo", "unlearned")
        ]  # fmt: skip
        assert told["baseline"] == 1
        code, _, err = call("report", tmp_path / "npo", "start=np", f"output={tmp_path}/other.html")
        assert code == 2 and "Did you mean 'npo'? A folder of records" in err and not (tmp_path / "other.html").exists()

    def test_the_course_of_compared_runs(self, call: Callable[..., Any], tmp_path: Path) -> None:
        measures = {
            f"{split}_extraction_strength": Measure(value=0.5, better="lower", definition="d", source="s", n=3)
            for split in ("forget", "retain")
        }
        Evaluation(measures, label="npo").save(tmp_path / "npo" / "evaluation.json")
        points = tuple(
            Point(name=str(at), forget=(1.0 - at, 1.0 - at), retain=(1.0, 1.0 - at / 2)) for at in (0.0, 0.5)
        )
        for label in ("npo", "other"):
            curve = Curve(label=label, group=label, trace="checkpoints", points=points)
            compared = Comparison(curves=(curve,), evaluations=(), start=points[0], retain=None, front=())
            compared.save(tmp_path / f"{label}-compared")
        words = (tmp_path / "npo", f"output={tmp_path}/page.html")
        assert call("report", *words, f"compared={tmp_path}/npo-compared").code == 0
        assert "Thin lines follow a run" in (tmp_path / "page.html").read_text()
        code, _, err = call("report", *words, f"compared={tmp_path}/other-compared", "--overwrite")
        assert code == 2 and "compares other, and the evaluations here are npo: none is among them" in err

    def test_mistakes(self, call: Callable[..., Any], tmp_path: Path) -> None:
        assert "name the evaluated models" in call("report").err
        code, _, err = call("report", tmp_path / "nowhere")
        assert code == 2 and "no evaluation at" in err


class TestDemo:
    def test_settings_reach_the_recipe(
        self, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        seen: dict[str, Any] = {}

        def recipe(folder: str, **settings: Any) -> Any:
            seen.update(settings, folder=folder)
            shown = (evaluation("start model", 0.9), evaluation("retain model", 0.1), evaluation("npo", 0.2))
            return SimpleNamespace(evaluations=shown, report=tmp_path / "report.html")

        monkeypatch.setattr("expunge.experiments._demo.demo", recipe)
        monkeypatch.setattr("expunge.experiments._demo.SHOWN", ("forget_probability",))
        code, out, _ = call("demo", f"output={tmp_path}/demo", "--fresh", "methods=npo", "authors=70", "seed=1")
        assert code == 0 and f"report: {tmp_path}/report.html" in out and "npo" in out and "0.9" in out
        assert seen["folder"] == f"{tmp_path}/demo" and seen["fresh"] is True and seen["overwrite"] is False
        assert (seen["methods"], seen["authors"], seen["seed"]) == (("npo",), 70, 1)

    def test_a_folder_in_use(self, call: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        code, _, err = call("demo", f"output={tmp_path}")
        assert code == 2 and "is in use" in err

    def test_its_methods_are_those_of_the_recipe(self) -> None:
        # The verb must list them without loading the recipe, which loads torch.
        from expunge.experiments._demo import METHODS

        assert demo.DemoConfig().methods == tuple(METHODS)


def test_every_verb_stands_in_a_file_of_its_name() -> None:
    folder = Path(demo.__file__).parent
    for verb in ("demo", "train", "unlearn", "evaluate", "report", "list", "data"):
        tree = ast.parse((folder / f"{verb}.py").read_text())
        assert f"`expunge {verb}`" in str(ast.get_docstring(tree))
