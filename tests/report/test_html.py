import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import expunge
from expunge.core.checks import ExpungeError
from expunge.report.html import histories_in, report
from expunge.report.summary import STANDING
from expunge.report.text import interval_text, legible, value_text
from expunge.results.attacked import Attacked, Column, Leak
from expunge.results.measures import Evaluation, Sample

History = dict[str, list[dict[str, float | None]]]
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use", "rect"}
MEASURES = {"class": "plain measures"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    parts: list["Node | str"] = field(default_factory=list)

    def all(self, tag: str, **attributes: str) -> list["Node"]:
        """Nodes below with this tag and these attributes, in order."""
        found: list[Node] = []
        for part in self.parts:
            if isinstance(part, Node):
                if part.tag == tag and attributes.items() <= part.attributes.items():
                    found.append(part)
                found += part.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


class Tree(HTMLParser):
    """A tree of the page; tags that do not close in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open = [Node("", {})]
        self.feed(text)
        assert [node.tag for node in self.open] == [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].parts.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].parts.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def tree(path: Path) -> Node:
    return Tree(path.read_text(encoding="utf-8")).open[0]


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, models: list[Evaluation], histories: History) -> Path:
    path = tmp_path_factory.mktemp("full") / "new" / "report.html"
    return report(models, path, start="start", retain="retain", histories=histories)


def test_the_public_name_is_this_function() -> None:
    assert expunge.report is report


def test_every_number_of_the_tables_is_its_measure(full: Path, models: list[Evaluation]) -> None:
    rows = [row for table in tree(full).all("table", **MEASURES) for row in table.all("tbody")[0].all("tr")]
    assert len(rows) == len(models[0])
    # Of retain_rouge the intervals of SimNPO and NPO overlap.
    best = {"forget_probability": "NPO", "forget_quality": "NPO", "retain_rouge": None, "mia_min_k": "NPO"}
    for row in rows:
        name = row.all("code")[0].text
        *cells, meaning = row.all("td")
        assert len(cells) == len(models)
        for evaluation, cell in zip(models, cells, strict=True):
            measure = evaluation[name]
            value = [*cell.all("b"), cell][0].text.strip()
            small = [node.text for node in cell.all("small")]
            assert value.startswith(value_text(measure))
            expected = [interval_text(measure.interval)] if measure.interval else []
            assert small == expected + ([measure.note] if measure.note else [])
            assert name not in best or bool(cell.all("b")) == (best[name] == evaluation.label)
        measure = models[0][name]
        assert measure.definition in meaning.text and measure.source in meaning.text


def test_numbers_of_the_summary_come_from_measures_or_their_shares(full: Path, models: list[Evaluation]) -> None:
    (section,) = tree(full).all("section", id="measures")
    told = " ".join(line.text for line in section.all("p", **{"class": "about"}))
    strengths = {value_text(m[f"{on}_extraction_strength"]) for m in models for on in ("forget", "retain")}
    # Shares of the start model's 0.942 that GradAscent and GradDiff keep; the rule of 80 %; 2 of 4 models.
    strengths |= {value_text(m[f"{on}_probability"]) for m in models for on in ("forget", "retain")}
    strengths |= {value_text(m["retain_rouge"]) for m in models}
    known = strengths | {"0.425", "45.8", "80", "2", "4"}
    assert told and set(re.findall(r"\d[\d.e-]*\d|\d", told)) <= known


def test_attacks_have_their_table_and_no_text_where_none_is_wanted(models: list[Evaluation], tmp_path: Path) -> None:
    def leak(values: tuple[float, ...]) -> Leak:
        return Leak(name="quantize.nf4", measure="extraction strength", facts=(0, 1), values=values)

    column = Column(name="quantize.nf4", leak=leak((0.9, 0.1)), control=leak((0.1, 0.1)), threshold=0.2)
    absent = Column(name="lens", leak=None, control=None, threshold=0.2, note="it needs <b>more</b>")
    found = Attacked(
        columns=(column, absent),
        questions=("Who <i>secretly</i> lives here?", "Why?"),
        answers=("a", "b"),
        control=None,
    )
    page = tree(report(models, tmp_path / "a.html", attacked=[found]))
    (section,) = page.all("section", id="attacks")
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in section.all("tr")]
    assert rows[1] == ["quantize.nf4", "1 of 2", "0.4", "0–0.8", "0.2", "extraction strength", "nothing", "ran"]
    assert rows[2][-1] == "it needs <b>more</b>"
    verdict = page.all("section", **{"aria-label": "Verdict on model"})[0].text
    assert "Of 2 facts to be forgotten, 1 can no longer be drawn out by anything tried. 1 still leaks." in verdict
    assert "1 under quantize.nf4" in verdict and "lens (it needs <b>more</b>)" in verdict
    dropped = report(models, tmp_path / "b.html", attacked=[found], texts="drop").read_text(encoding="utf-8")
    assert "secretly" not in dropped and 'id="attacks"' in dropped
    assert 'id="attacks"' not in report(models, tmp_path / "c.html").read_text(encoding="utf-8")


def test_it_needs_nothing_from_elsewhere(full: Path) -> None:
    text = full.read_text(encoding="utf-8")
    assert "://" not in text
    page = tree(full)
    for tag in ("link", "img", "iframe", "object", "embed", "base", "image"):
        assert page.all(tag) == []
    assert not re.search(r"@import|url\((?!#)|srcset|\son\w+=|javascript:", text)
    assert all(link.attributes["href"].startswith("#") for link in page.all("a"))
    (policy,) = [m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    content = policy.attributes["content"]
    assert content.startswith("default-src 'none'; script-src 'sha256-")
    data, script = page.all("script")
    assert data.attributes == {"type": "application/json", "id": "data"} and script.attributes == {}
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in content and "unsafe" not in content.split("style-src")[0]


def test_links_within_the_page_arrive(full: Path) -> None:
    page = tree(full)
    targets = {node.attributes["id"] for node in every(page) if "id" in node.attributes}
    links = {link.attributes["href"][1:] for link in page.all("a")}
    assert {link for link in links if "=" not in link} <= targets and "facts" in links


def test_it_holds_the_parts_that_a_reader_needs(full: Path, models: list[Evaluation]) -> None:
    page = tree(full)
    sections = [node.attributes["id"] for node in page.all("section") if "id" in node.attributes]
    assert sections == ["facts", "tradeoff", "training", "measures", "made"]
    verdicts = [node.attributes["aria-label"] for node in page.all("section") if "data-model" in node.attributes]
    assert verdicts == [f"Verdict on {name}" for name in ("GradAscent", "GradDiff", "NPO", "SimNPO")]
    main, footer = page.all("main")[0], page.all("footer")[0]
    assert STANDING in main.text and STANDING in footer.text
    assert page.all("html")[0].attributes["lang"] == "en"
    for cell in page.all("th"):
        assert cell.attributes["scope"] in ("col", "row")
    made = page.all("section", id="made")[0]
    lines = [[cell.text for cell in row.all("th") + row.all("td")] for row in made.all("tr")]
    for evaluation in models:
        assert evaluation.about["inputs"]["model"] in made.text
    assert ["inputs.data.retain", models[0].about["inputs"]["data.retain"]] in lines  # alike for all, so told once
    assert ["versions.torch", "2.13.0"] in lines and ["settings.dtype", "float32"] in lines


def test_losses_of_training_are_found_in_run_folders(tmp_path: Path) -> None:
    run = tmp_path / "npo"
    run.mkdir()
    (run / "history.csv").write_text("step,forget_loss,retain_loss\n1,0.5,\n2,0.25,0.125\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "history.csv").write_text("step,seconds\n1,2\n")
    found = histories_in([run, tmp_path / "npo-records", tmp_path / "other", Evaluation(measures={})])
    assert found == {
        "npo": [
            {"step": 1.0, "forget_loss": 0.5, "retain_loss": None},
            {"step": 2.0, "forget_loss": 0.25, "retain_loss": 0.125},
        ]
    }


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=y> \"'&amp; \x00\x1b[31m \u202eevil \ud800\uffff ]]> {{ 7*7 }} {% x %}"
)


def test_hostile_text_anywhere_stays_text(tmp_path: Path, make_model: Callable[..., Evaluation], full: Path) -> None:
    npo = make_model("NPO")
    held = {
        name + (HOSTILE if name == "privleak" else ""): replace(
            measure, definition=HOSTILE, source=HOSTILE, note=HOSTILE, details={HOSTILE: 1.0}
        )
        for name, measure in npo.items()
    }
    sample = Sample(split=HOSTILE, question=HOSTILE, answer=HOSTILE, generation=HOSTILE)
    bad = Evaluation(
        measures=held, label=HOSTILE, suite=HOSTILE, samples=(sample,), about={HOSTILE: HOSTILE, "dtype": HOSTILE}
    )
    rows: list[dict[str, float | None]] = [{"step": 1.0, f"{HOSTILE}_loss": 1.0}]
    page = tree(
        report(
            [make_model("start"), bad, bad],
            tmp_path / "r.html",
            title=HOSTILE,
            start="start",
            notes=[HOSTILE],
            histories={HOSTILE: rows},
        )
    )
    allowed = {node.tag for node in every(tree(full))} | {"aside"}
    assert {node.tag for node in every(page)} <= allowed
    assert not any(name.startswith("on") for node in every(page) for name in node.attributes)
    shown = "".join(node.text for node in page.all("main"))
    assert shown.count("<script>alert(1)</script>") > 15
    data, _ = page.all("script")
    assert "<" not in data.text and json.loads(data.text)["facts"][-1]["question"] == legible(HOSTILE)
    assert "49" not in page.all("h1")[0].text and "{{ 7*7 }}" in page.all("h1")[0].text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ufffe\uffff]", page.text)
    svgs = page.all("svg")
    assert len(svgs) == 2 and all("<script>alert(1)" in svg.text.replace("\n", " ") for svg in svgs)


def every(node: Node) -> list[Node]:
    below = [part for part in node.parts if isinstance(part, Node)]
    return below + [deeper for part in below for deeper in every(part)]


def test_the_same_evaluations_give_the_same_bytes(
    tmp_path: Path, full: Path, models: list[Evaluation], histories: History
) -> None:
    stored = [model.save(tmp_path / f"{i}.json") for i, model in enumerate(models)]
    again = report(stored, tmp_path / "r.html", start="start", retain="retain", histories=histories)
    assert again.read_bytes() == full.read_bytes()


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path, models: list[Evaluation]) -> None:
    here = report(models, tmp_path / "here.html", start="start", retain="retain").read_bytes()
    stored = [str(model.save(tmp_path / f"{i}.json")) for i, model in enumerate(models)]
    script = (
        "import json, sys, expunge; "
        "expunge.report(json.loads(sys.argv[1]), sys.argv[2], start='start', retain='retain'); "
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules), 'too heavy'"
    )
    there = tmp_path / "there.html"
    subprocess.run([sys.executable, "-c", script, json.dumps(stored), str(there)], check=True, timeout=120)
    assert there.read_bytes() == here


def test_a_report_is_not_overwritten_unasked(tmp_path: Path, make_model: Callable[..., Evaluation]) -> None:
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(ExpungeError, match=r"report\.html is in use.*overwrite=True"):
        report(make_model("NPO"), path)
    with pytest.raises(ExpungeError, match=r"replaces an earlier page only, and .*report\.html is none"):
        report(make_model("NPO"), path, overwrite=True)
    assert path.read_text() == "mine"
    path.unlink()
    report(make_model("NPO"), path)
    assert "<h1>" in report(make_model("NPO"), path, overwrite=True).read_text(encoding="utf-8")
    with pytest.raises(ExpungeError, match="is a folder"):
        report(make_model("NPO"), tmp_path, overwrite=True)


def test_nothing_is_written_when_something_is_wrong(tmp_path: Path, models: list[Evaluation]) -> None:
    with pytest.raises(ExpungeError, match="is called 'begin'"):
        report(models, tmp_path / "folder" / "r.html", start="begin")
    with pytest.raises(ExpungeError, match="needs its 'step'"):
        report(models, tmp_path / "folder" / "r.html", histories={"NPO": [{"forget_loss": 1.0}]})
    assert not (tmp_path / "folder").exists()


def test_one_evaluation_with_little_in_it(tmp_path: Path, models: list[Evaluation]) -> None:
    bare = Evaluation(measures={"forget_rouge": models[0]["forget_rouge"]}, label="bare")
    page = tree(report(bare, tmp_path / "r.html"))
    assert [node.attributes["id"] for node in page.all("section") if "id" in node.attributes] == ["measures", "made"]
    assert "No fact of the forget set can be judged." in page.text
    assert page.all("svg") == [] and page.all("aside") == [] and page.all("dialog") == []
    empty = tree(report(Evaluation(measures={}), tmp_path / "empty.html"))
    assert empty.all("section", id="measures")


def test_warnings_are_visible(tmp_path: Path, models: list[Evaluation], make_model: Callable[..., Evaluation]) -> None:
    mixed = [*models, make_model("NPO", n_forget=20), make_model("SimNPO", suite="own").labeled("other")]
    (aside,) = tree(report(mixed, tmp_path / "r.html", start="start", retain="retain")).all("aside")
    assert "do not compare these" in aside.text and "different suites" in aside.text and "labeled 'NPO'" in aside.text


def test_trajectories_reach_the_drawing(tmp_path: Path, models: list[Evaluation]) -> None:
    path = report(models, tmp_path / "r.html", trajectories={"NPO": [(0.07, 0.94), (0.86, 0.79)]})
    assert "Thin lines follow a run" in path.read_text(encoding="utf-8")
    bare = Evaluation(measures={"forget_rouge": models[0]["forget_rouge"]}, label="bare")
    with pytest.raises(ExpungeError, match="no evaluation has a value for both"):
        report(bare, tmp_path / "s.html", trajectories={"bare": [(0.5, 0.5)]})
