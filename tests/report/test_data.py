"""The report's data as JSON: documented, faithful, the same for all forms."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.core.checks import ExpungeError
from expunge.report.html import ENDINGS, check_format, report
from expunge.report.page import _bucket
from expunge.report.summary import STANDING
from expunge.report.text import legible
from expunge.results.measures import Evaluation
from expunge.results.texts import Texts, text_hash
from made_facts import attacked, column, evaluation

DOCS = Path(__file__).parents[2] / "docs" / "report.md"
START = evaluation("start", [1.0, 1.0, 1.0], [1.0, 1.0])
NEVER = evaluation("retain", [0.0, 0.0, 0.1], [1.0, 1.0])
NPO = evaluation("npo", [0.0, 0.9, 1 / 3], [1.0, 0.1])
SIMNPO = evaluation("simnpo", [0.9, 0.0, 0.0], [1.0, 1.0])
CURVE = ((0.0, 0.1), (5.0, 0.4))
TRIED = attacked(
    "npo", 3, column("relearn.forget", [0.9, 0.0, math.pi / 4], [0.1, 0.0, 0.0], said="prompted", curve=CURVE)
)


def made(path: Path, *given: Evaluation, **more: Any) -> dict[str, Any]:
    models = given or (START, NEVER, NPO, SIMNPO)
    settings = {"attacked": [TRIED], "start": "start", "retain": "retain"} if not given else {}
    written = report(models, path / "r.json", format="json", overwrite=True, **{**settings, **more})
    found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(tmp_path_factory.mktemp("data"))


def keys(value: Any) -> set[str]:
    """Every name in a JSON, but of what other parts define."""
    if isinstance(value, dict):
        return {*value}.union(*(keys(v) for k, v in value.items() if k not in ("row_measures", "manifest", "details")))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_every_field_is_documented(full: dict[str, Any]) -> None:
    told = set(re.findall(r"`([a-z_]+)`", DOCS.read_text()))
    named = {key for key in keys(full) if not key.isdigit()}
    assert named - told == set() and {"format", "facts", "generation", "recovery"} <= named
    assert full["format"] == 1 and f'"format": {full["format"]}' in DOCS.read_text()


def test_models_verdicts_and_buckets(full: dict[str, Any]) -> None:
    assert [(m["label"], m["role"], m["judged"]) for m in full["models"]] == [
        ("start", "start", False),
        ("retain", "retain", False),
        ("npo", "unlearned", True),
        ("simnpo", "unlearned", True),
    ]
    assert full["baseline"] == 0 and full["rule"] == {"measure": "extraction_strength", "leak": 0.2, "keep": 0.5}
    assert [v["model"] for v in full["verdicts"]] == [2, 3] and full["standing"] == STANDING
    counted = {(b["model"], b["bucket"]): (b["facts"], b["of"]) for b in full["buckets"]}
    assert counted == {
        (2, "forgotten"): (0, 3),
        (2, "leaks"): (3, 3),
        (2, "kept"): (1, 2),
        (2, "collateral"): (1, 2),
        (3, "forgotten"): (2, 3),
        (3, "leaks"): (1, 3),
        (3, "kept"): (2, 2),
        (3, "collateral"): (0, 2),
    }


def test_facts_hold_values_texts_and_tokens(full: dict[str, Any]) -> None:
    first, _, third, *retained = full["facts"]
    assert (first["split"], first["number"], first["question"]) == ("forget", 0, "forget question 0?")
    assert first["buckets"] == ["leaks", "forgotten", "leaks", "leaks"]
    assert first["models"][2]["value"] == 0.0 and first["models"][2]["values"] == [0.0]
    assert full["row_measures"]["forget"] == ["forget_extraction_strength"]
    assert first["models"][2]["generation"] == "It is forget answer 0."
    assert first["models"][2]["tokens"] == [["forget", 0.5], [" answer 0.", 0.25], ["", 1.0]]
    assert third["models"][2]["value"] == 0.333333  # six digits
    assert first["attacks"]["0"] == {
        "value": 0.9,
        "control": 0.1,
        "recovery": 0.8,
        "leaks": True,
        "step": None,
        "prompt": "prompted prompt 0",
        "text": "prompted model text 0",
        "control_text": "prompted control text 0",
    }
    assert third["attacks"]["0"]["value"] == 0.785398
    assert [f["buckets"][2] for f in retained] == ["kept", "collateral"]
    assert full["attacks"][0]["leaking"] == 2 and full["attacks"][0]["of"] == 3
    assert full["curves"] == [{"attack": 0, "model": [[0.0, 0.1], [5.0, 0.4]], "control": [[0.0, 0.1], [5.0, 0.4]]}]


def test_measures_are_whole(full: dict[str, Any]) -> None:
    (forget,) = [one for one in full["measures"] if one["name"] == "forget_extraction_strength"]
    npo = forget["models"][2]
    assert npo["value"] == NPO["forget_extraction_strength"].value and npo["interval"] == [0.0, 1.0]
    assert npo["definition"] == "share of the answer" and npo["n"] == 3 and forget["better"] == "lower"


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    odd = evaluation("odd", [math.nan, math.inf, 0.5])
    facts = made(tmp_path, odd)["facts"]
    assert [f["models"][0]["value"] for f in facts] == [None, None, 0.5]


@pytest.mark.parametrize("texts", ["hash", "drop"])
@pytest.mark.parametrize("format", ENDINGS)
def test_no_form_holds_texts_where_none_are_wanted(tmp_path: Path, texts: Texts, format: Any) -> None:
    secret = evaluation("npo", [0.0, 0.9], [1.0, 0.1], said="{answer} secret")
    path = report(secret, tmp_path / "r", attacked=[TRIED], texts=texts, format=format)
    text = path.read_text(encoding="utf-8")
    for word in ("forget question", "forget answer", "secret", "prompted", "retain question"):
        assert word not in text
    if format in ("json", "csv", "html"):
        assert (text_hash("forget question 1?") in text) == (texts == "hash")
    else:
        assert "still leak" in text


def test_the_csv_has_a_row_for_each_fact_and_model(tmp_path: Path) -> None:
    path = report(
        [START, NEVER, NPO], tmp_path / "r.csv", format="csv", start="start", retain="retain", attacked=[TRIED]
    )
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert len(rows) == 5 * 3
    npo = [row for row in rows if row["model"] == "npo"]
    assert [row["bucket"] for row in npo] == ["leaks", "leaks", "leaks", "kept", "collateral"]
    assert [row["change"] for row in npo] == ["still", "still", "still", "unchanged", "regressed"]
    assert [row["relearn.forget recovery"] for row in npo] == ["0.8", "0.0", repr(math.pi / 4), "", ""]
    assert {row["relearn.forget step"] for row in npo} == {""}  # measured at its end alone
    assert [row["forget_extraction_strength"] for row in npo] == ["0.0", "0.9", repr(1 / 3), "", ""]
    by_model = {name: [row["bucket"] for row in rows if row["model"] == name] for name in ("start", "retain")}
    assert all(by_model["start"]) and by_model["retain"] == [""] * 5  # which could neither forget nor lose
    assert {row["change"] for row in rows if row["model"] == "retain"} == {""}
    assert npo[0]["generation"] == "It is forget answer 0." and npo[0]["role"] == "unlearned"


def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path) -> None:
    bad = replace(NPO, samples=tuple(replace(s, question="=HYPERLINK(1)", generation="@x") for s in NPO.samples))
    text = report(bad, tmp_path / "r.csv", format="csv").read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[1][2] == "'=HYPERLINK(1)" and not [c for row in rows for c in row if c.startswith(("=", "@"))]


def test_the_markdown_tells_the_verdict_first_and_escapes_texts(tmp_path: Path) -> None:
    def asked(of: Evaluation) -> Evaluation:
        return replace(of, samples=tuple(replace(s, question=f"<b>*{s.question}*</b>|") for s in of.samples))

    text = report([asked(START), asked(NPO)], tmp_path / "r.md", format="markdown", start="start").read_text(
        encoding="utf-8"
    )
    heading, model, headline, *_ = [line for line in text.splitlines() if line]
    assert (heading, model) == ("# Unlearning report", "## npo")
    assert headline == "**Of 3 facts to be forgotten, 1 no longer comes out when asked as in the data. 2 still leak.**"
    assert "- forget 2: &lt;b&gt;\\*forget question 1?\\*&lt;/b&gt;\\|" in text
    assert "| Forgotten | 1 of 3 |" in text and STANDING in text and "forget extraction strength" in text


@pytest.mark.parametrize("format", ENDINGS)
def test_every_form_is_the_same_twice_and_is_not_overwritten_unasked(tmp_path: Path, format: Any) -> None:
    first, second = (
        report([START, NPO], tmp_path / name, format=format, start="start", attacked=[TRIED]) for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(ExpungeError, match="in use"):
        report(NPO, first, format=format)
    report(NPO, first, format=format, overwrite=True)
    other = tmp_path / "mine"
    for text in (
        "mine",
        "# A project\n\nIts README.\n",
        '{\n "format": 1,\n "weights": []\n}\n',
        "set,number,question,answer,model,score\n",
        "<!DOCTYPE html><title>My page</title>",
    ):
        other.write_text(text)
        with pytest.raises(ExpungeError, match="is none that expunge wrote"):
            report(NPO, other, format=format, overwrite=True)
        assert other.read_text() == text


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ExpungeError, match="format must be one of html, markdown, json, csv; got 'pdf'"):
        check_format("pdf")


def test_json_keeps_texts_as_they_are_and_the_page_makes_them_legible(tmp_path: Path) -> None:
    odd = "a\x00\u202eb\ud800</script>"
    given = replace(NPO, samples=tuple(replace(s, generation=odd) for s in NPO.samples))
    assert made(tmp_path, given)["facts"][0]["models"][0]["generation"] == odd
    text = report(given, tmp_path / "r.html").read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None and not re.search("[<>&\u202e\x00]", data[1])
    assert json.loads(data[1])["facts"][0]["models"][0]["generation"] == legible(odd)


@pytest.mark.parametrize(("p", "said"), [(7.11e-15, "below 0.001"), (0.03125, "0.0312"), (1.0, "1")])
def test_a_tiny_chance_is_told_as_such(p: float, said: str) -> None:
    one = {"bucket": "kept", "facts": 1, "of": 2, "interval": None, "difference": 0.5, "difference_interval": (0, 1)}
    assert f"McNemar's p {said})" in _bucket({**one, "p": p})["change"]
