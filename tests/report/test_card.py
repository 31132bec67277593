import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from expunge.core.manifest import Manifest
from expunge.report.card import card
from expunge.report.summary import STANDING
from expunge.report.text import interval_text, value_text
from expunge.results.measures import Evaluation

Make = Callable[..., Evaluation]


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        stage="unlearn",
        arguments={"method": "npo", "hyperparameters": {"beta": 0.1}, "learning_rate": 1e-5, "retain": "nll"},
        seed=3,
        inputs={"model": "xxh3:0a", "forget": "xxh3:5f3e", "retain": "xxh3:77"},
        results={"rows": {"forget": 48, "retain": 96}, "start_model": "/home/someone/models/start", "finished": True},
        versions={"expunge": "0.1.0", "torch": "2.13.0"},
        git=None,
        created="2026-01-02T03:04:05+00:00",
    )


def test_a_card_tells_what_how_and_how_well(make_model: Make, manifest: Manifest) -> None:
    npo, start, retain = make_model("NPO"), make_model("start"), make_model("retain")
    text = card(npo, manifest, start=start, retain=retain)
    assert text.startswith("---\nlibrary_name: transformers\n") and "\n# NPO\n" in text
    assert "Suppression is not proof of erasure." in text and STANDING in text
    for line in (
        "| forget set | xxh3:5f3e |",
        "| rows | 48 |",
        "| method | npo |",
        "| hyperparameters.beta | 0.1 |",
        "| seed | 3 |",
    ):
        assert f"\n{line}\n" in text
    assert "| measure | NPO | start model | retain model |" in text
    lines = {name: line for line in text.splitlines() if (name := line.removeprefix("| ").split(" |")[0])}
    for name, words in (("forget_rouge", "forget ROUGE ↓"), ("retain_probability", "retain probability ↑")):
        cells = [f"{value_text(e[name])} ({interval_text(e[name].interval)})" for e in (npo, start, retain)]
        assert lines[words] == f"| {words} | {' | '.join(cells)} |"
    assert "## Warnings\n\nNone found by expunge." in text


def test_a_card_gives_away_no_sample_and_no_path(make_model: Make, manifest: Manifest) -> None:
    npo = make_model("NPO")
    text = card(npo, manifest)
    assert "| start model | start |" in text and "someone" not in text
    for sample in npo.samples:
        assert sample.question not in text and sample.answer not in text and sample.generation not in text


def test_what_is_missing_is_a_warning(make_model: Make, manifest: Manifest) -> None:
    bare = replace(manifest, inputs={}, results={}, arguments={}, git={"commit": "abc", "dirty": True})
    text = card(make_model("SimNPO"), bare, retain=make_model("retain", n_forget=20))
    warnings = text.partition("## Warnings")[2].partition("##")[0]
    assert "no fingerprint of the forget set" in warnings and "| forget set | not recorded |" in text
    assert "does not say that the run was finished" in warnings and "uncommitted changes" in warnings
    assert "do not compare these" in warnings
    assert "privleak: needs a holdout set" in warnings
    assert warnings.count("\n- ") == 6  # the four above, n of the other measures, the note of privleak


def test_labels_that_collide_are_told_apart(make_model: Make, manifest: Manifest) -> None:
    text = card(make_model("NPO").labeled("start model"), manifest, start=make_model("start"))
    assert "| measure | start model (2) | start model |" in text
    assert re.search(r"\| forget extraction strength ↓ \| 0\.142 \([^|]* \| 0\.931 \(", text)


def test_foreign_text_is_inert(make_model: Make, manifest: Manifest) -> None:
    hostile = replace(manifest, arguments={"method": "a|b\n# c <script>", "note": "`x` | y"})
    npo = make_model("NPO")
    noted = replace(npo["privleak"], note="<i>see</i>")
    whole = card(replace(npo, label="<b>|*x*", measures={**npo.measures, "privleak": noted}), hostile)
    text = whole.partition("\n---\n")[2]  # what stands before is YAML, which no one renders
    assert "\n- privleak: &lt;i&gt;see&lt;/i&gt;\n" in text and "<i>" not in text
    assert "<script>" not in text and "<b>" not in text and "\n# c" not in text
    assert "| note | \\`x\\` \\| y |" in text and "# &lt;b&gt;\\|\\*x\\*" in text
