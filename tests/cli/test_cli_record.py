"""`expunge record` and `expunge verify`: what is shown, and exit codes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import made_run
from expunge.core.manifest import Manifest

Call = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made_run.run(tmp_path / "runs" / "npo")
    made_run.attacked({"sampling": (0.0, 0.9, 0.0, 0.0, 0.0, 0.0)}).save(tmp_path / "runs" / "npo-attacked")
    rows = [{"question": e.prompt, "answer": e.completion} for e in made_run.CORPUS["forget"]]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "runs"


def test_a_record_is_made_listed_and_verified(runs: Path, call: Call) -> None:
    forget = f"forget={runs.parent / 'forget.jsonl'}"
    made = call("record", runs / "npo", "request=REQ-17", f"attacked={runs / 'npo-attacked'}", forget)
    assert made.code == 0 and "REQ-17: RESIDUAL, policy default\n- 1 of 6 facts leak\n" in made.out
    assert "It is no proof" in made.out and "erasure.json, not signed" in made.out
    assert (
        "not tried: membership inference, attribute inference" in made.out
        and "made from: the run, attacked\n" in made.out
    )
    found = call("verify", runs / "npo")
    assert found.code == 0 and "Everything matches; not checked: signature." in found.out
    listed = call("record", "list", runs)
    assert listed.code == 0 and "REQ-17" in listed.out and "the chain holds" in listed.out
    scope = call("verify", runs / "npo", f"salt={runs / 'npo.salt'}", forget)
    assert scope.code == 0 and "all 6 rows in scope, of 6" in scope.out


def test_earlier_requests_are_shown(runs: Path, call: Call) -> None:
    forget = f"forget={runs.parent / 'forget.jsonl'}"
    call("record", runs / "npo", "request=REQ-17", forget)
    made_run.run(runs / "after", start=made_run.RESULT, result="xxh3:after", start_model=str(runs / "npo"))
    made_run.attacked({"sampling": (0.9, *(0.0,) * 5)}, model="xxh3:after").save(runs / "after-attacked")
    made = call("record", runs / "after", "request=REQ-18", f"attacked={runs / 'after-attacked'}", forget)
    assert made.code == 0 and "Earlier requests" in made.out
    assert re.search(r"REQ-17 +npo +6 +6 +1 +came back", made.out)
    assert "The earlier request REQ-17 came back: 1 of its 6 rows leak." in made.out


def test_a_mismatch_ends_with_a_code_of_its_own(runs: Path, call: Call) -> None:
    call("record", runs / "npo", "request=REQ-17", f"forget={runs.parent / 'forget.jsonl'}")
    (runs / "npo" / "config.json").write_text("{ }\n")
    found = call("verify", runs / "npo")
    assert found.code == 1 and "config.json: changed since the record was made" in found.out
    (runs / "npo" / "erasure.json").write_text("{")
    assert call("verify", runs / "npo").code == 2
    listed = call("record", "list", runs)
    assert listed.code == 1 and "the chain is broken" in listed.out


def test_mistakes_are_told(runs: Path, call: Call) -> None:
    for words, said in (
        (("record",), "missing: request"),
        (("record", "request=R"), "name one run folder"),
        (("record", runs / "npo", "request=R"), "name it, forget=forget.jsonl"),
        (("record", "list"), "name the folder that holds the run folders"),
        (("record", "list", runs / "none"), "no folder at"),
        (("verify",), "name one run folder"),
        (("verify", runs / "npo"), "no erasure record at"),
        (("record", runs / "npo", "request=R", "polcy=x"), "Did you mean 'policy'?"),
    ):
        found = call(*words)
        assert found.code == 2 and said in found.err, words
    assert call("record", "list", runs).out == f"no erasure record in {runs}\n"


def test_help_names_every_setting(call: Call) -> None:
    for words, setting in ((("record",), "predecessor: text or null"), (("verify",), "salt: text or null")):
        assert setting in call(*words, "--help").out
    assert "Usage: expunge record list" in call("record", "list", "--help").out


def test_the_manifest_stays_as_it_is(runs: Path, call: Call) -> None:
    before = Manifest.load(runs / "npo")
    call("record", runs / "npo", "request=REQ-17", f"forget={runs.parent / 'forget.jsonl'}")
    assert Manifest.load(runs / "npo") == before
