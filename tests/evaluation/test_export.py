"""Logs for other programs: what is written reads back as the same measures, and equals published logs."""

import json

import pytest

from expunge.core.checks import ExpungeError
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.export import AGGREGATES, LOG, SUMMARY, export
from made_records import certain, records, rows, view

PREFIX = "Llama-3.2-1B_"


def close(a, b):
    return a == pytest.approx(b, rel=1e-9, abs=1e-12)


class TestOurRecords:
    @pytest.fixture
    def folders(self, model, other_model, tokenizer, corpus, tmp_path):
        for name, one in (("model", model), ("retain", other_model)):
            evaluate(one, tokenizer, corpus, suite="tofu", output_dir=tmp_path / name)
        return tmp_path / "model", tmp_path / "retain"

    def test_round_trip(self, folders, tmp_path):
        ours, retain = folders
        export(ours, tmp_path / "log", reference=retain)
        export(retain, tmp_path / "retain-log")
        before = evaluate(records=ours, reference=retain, suite="tofu")
        after = evaluate(records=tmp_path / "log" / LOG, reference=tmp_path / "retain-log" / LOG, suite="tofu")
        compared = [name for name in AGGREGATES if before[name].value is not None]
        needed = {"forget_quality", "model_utility", "privleak", "forget_rouge", "mia_zlib", "mia_min_k_plus_plus"}
        assert needed <= set(compared)
        compared.remove("mia_reference")  # of which a log holds the AUC alone, as it takes two models
        for name in compared:
            assert close(after[name].value, before[name].value), name
            assert after[name].per_example == pytest.approx(before[name].per_example, rel=1e-9), name

    def test_summary_holds_the_aggregates(self, folders, tmp_path):
        ours, retain = folders
        log, summary = export(ours, tmp_path / "log", reference=retain)
        content = json.loads(log.read_text())
        assert json.loads(summary.read_text()) == {k: v["agg_value"] for k, v in content.items() if "agg_value" in v}
        assert len(content["forget_Q_A_PERT_Prob"]["value_by_index"]["1"]["prob"]) == 3  # 2 + 1 % 2 wrong answers
        assert summary.name == SUMMARY


@pytest.mark.parametrize("name", ["full_forget01", "full_forget10", "retain90"])
def test_published_logs_come_out_as_they_went_in(shared_data, tmp_path, name):
    """Every number that the log holds and ours too is the same; nothing else is made up."""
    path = shared_data / "tofu_logs" / f"{PREFIX}{name}.json"
    retain = shared_data / "tofu_logs" / f"{PREFIX}{'retain99' if name.endswith('01') else 'retain90'}.json"
    export(path, tmp_path, reference=retain)
    written, log = json.loads((tmp_path / LOG).read_text()), json.loads(path.read_text())
    differing = [] if name.startswith("full") else ["forget_quality", "privleak"]  # it has no reference of its own
    compared = 0
    for metric, content in written.items():
        for key, value in content.items():
            if metric not in differing:
                assert _same(value, log[metric][key]), (metric, key)
                compared += 1
    assert compared > 40 and set(written) <= set(log)


def test_gaps_of_a_log_stay_gaps(shared_data, tmp_path):
    log = json.loads((shared_data / "tofu_logs" / f"{PREFIX}full_forget01.json").read_text())
    log["forget_Q_A_Prob"]["value_by_index"]["3"] = None
    log["forget_Q_A_PARA_Prob"]["value_by_index"]["4"] = {"prob": None, "avg_loss": None}
    log["mia_min_k"]["forget"]["value_by_index"]["5"] = {"score": None}
    log["ra_Q_A_PERT_Prob"]["value_by_index"]["6"] = {"prob": None, "avg_loss": None}
    (tmp_path / LOG).write_text(json.dumps(log))
    written, _ = export(tmp_path / LOG, tmp_path / "again")
    content = json.loads(written.read_text())
    assert content["forget_Q_A_Prob"]["value_by_index"]["3"]["prob"] is None
    assert set(log["forget_truth_ratio"]["value_by_index"]) - set(content["forget_truth_ratio"]["value_by_index"]) == {
        "4"
    }
    before, after = (evaluate(records=path, suite="tofu") for path in (tmp_path / LOG, written))
    for name, n in {
        "forget_probability": 39,
        "forget_truth_ratio": 39,
        "mia_min_k": 39,
        "real_authors_probability": 99,
        "real_authors_truth_ratio": 99,
    }.items():
        assert before[name].n == after[name].n == n, name
        assert after[name].per_example == pytest.approx(before[name].per_example, rel=1e-9), name


def _same(ours, theirs):
    if isinstance(ours, dict):
        return set(ours) <= set(theirs) and all(_same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return close(ours, theirs)


def test_what_is_missing_is_left_out(tmp_path):
    log, _ = export(view(certain(0.25, 0.5)), tmp_path)
    content = json.loads(log.read_text())
    # (.25 + .5) / 2, from log-probabilities stored in float32
    assert content["forget_Q_A_Prob"]["agg_value"] == pytest.approx(0.375, rel=1e-6)
    assert content["forget_Q_A_Prob"]["value_by_index"]["1"]["prob"] == pytest.approx(0.5, rel=1e-6)
    assert "forget_quality" not in content and "retain_Q_A_Prob" not in content


def test_errors(tmp_path):
    held = view(certain(0.5))
    export(held, tmp_path)
    with pytest.raises(ExpungeError, match="overwrite=True"):
        export(held, tmp_path)
    export(held, tmp_path, overwrite=True)
    with pytest.raises(ExpungeError, match="open-unlearning"):
        export(held, tmp_path / "x", form="open_unlearning2")
    with pytest.raises(ExpungeError, match="hold nothing"):
        export(records(rows(certain(0.5), split="elsewhere")), tmp_path / "y")
