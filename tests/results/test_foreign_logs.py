"""Logs of other programs: values that a right implementation recomputes from them, and logs that are none."""

import json

import numpy as np
import pytest

from expunge.core.checks import ExpungeError
from expunge.evaluation.evaluate import evaluate
from expunge.results.foreign_logs import load_records
from made_records import certain, view

PREFIX = "Llama-3.2-1B_"

# (forget split, retain model): D, forget quality, model utility full / retain, forget truth ratio full / retain
PUBLISHED = {
    ("forget01", "retain99"): (0.375, 6.760732304e-03, 0.5991534707, 0.5986022374, 0.4727516980, 0.6516009670),
    ("forget10", "retain90"): (0.350, 3.905471357e-22, 0.5991534707, 0.5911246639, 0.4755638962, 0.6274597699),
}


@pytest.fixture(params=PUBLISHED, ids=lambda p: p[0])
def published(request, shared_data):
    forget, retain = request.param
    folder = shared_data / "tofu_logs"
    return folder / f"{PREFIX}full_{forget}.json", folder / f"{PREFIX}{retain}.json", PUBLISHED[request.param]


def test_published_logs_give_the_published_values(published):
    full, retain, (d, quality, utility, retain_utility, ratio, retain_ratio) = published
    found = evaluate(records=load_records(full), reference=load_records(retain), suite="tofu")
    assert found["forget_quality"].details["D"] == pytest.approx(d, rel=1e-9)
    assert found["forget_quality"].value == pytest.approx(quality, rel=1e-9)
    assert found["model_utility"].value == pytest.approx(utility, rel=1e-9)
    assert found["forget_truth_ratio"].value == pytest.approx(ratio, rel=1e-9)
    itself = evaluate(records=retain, suite="tofu")
    assert itself["model_utility"].value == pytest.approx(retain_utility, rel=1e-9)
    assert itself["forget_truth_ratio"].value == pytest.approx(retain_ratio, rel=1e-9)
    assert itself["forget_quality"].value is None and "reference=<folder>" in itself["forget_quality"].note


def test_aggregates_equal_those_in_the_log(published):
    full, retain, _ = published
    log = json.loads(full.read_text())
    found = evaluate(records=full, reference=retain, suite="tofu")
    pairs = {
        "forget_probability": "forget_Q_A_Prob",
        "forget_paraphrased_probability": "forget_Q_A_PARA_Prob",
        "forget_rouge": "forget_Q_A_ROUGE",
        "forget_truth_ratio": "forget_truth_ratio",
        "forget_quality": "forget_quality",
        "forget_exact_memorization": "exact_memorization",
        "forget_extraction_strength": "extraction_strength",
        "retain_probability": "retain_Q_A_Prob",
        "retain_rouge": "retain_Q_A_ROUGE",
        "retain_truth_ratio": "retain_Truth_Ratio",
        "real_authors_probability": "ra_Q_A_Prob_normalised",
        "real_authors_rouge": "ra_Q_A_ROUGE",
        "real_authors_truth_ratio": "ra_Truth_Ratio",
        "world_facts_probability": "wf_Q_A_Prob_normalised",
        "world_facts_rouge": "wf_Q_A_ROUGE",
        "world_facts_truth_ratio": "wf_Truth_Ratio",
        "model_utility": "model_utility",
        "privleak": "privleak",
        "mia_loss": "mia_loss",
        "mia_zlib": "mia_zlib",
        "mia_min_k": "mia_min_k",
    }
    for ours, theirs in pairs.items():
        assert found[ours].value == pytest.approx(log[theirs]["agg_value"], rel=1e-9), ours
    per_example = [e["score"] for e in log["forget_truth_ratio"]["value_by_index"].values()]
    assert found["forget_truth_ratio"].per_example == pytest.approx(per_example, rel=1e-9)
    assert found["forget_extraction_strength"].note.startswith("As the log has it")


def test_membership_in_the_published_logs(shared_data):
    folder = shared_data / "tofu_logs"
    full = evaluate(
        records=folder / f"{PREFIX}full_forget10.json", reference=folder / f"{PREFIX}retain90.json", suite="tofu"
    )
    assert full["privleak"].value == pytest.approx(-99.45739100654656, rel=1e-9)
    assert full["mia_min_k"].value == pytest.approx(0.99665) and full["mia_min_k"].target == pytest.approx(0.3826125)


def test_what_a_log_lacks_is_missing_with_the_reason(shared_data):
    found = evaluate(records=shared_data / "tofu_logs" / f"{PREFIX}full_forget01.json", suite="tofu")
    assert found["retain_extraction_strength"].value is None
    assert "has no 'retain_extraction_strength.value_by_index'" in found["retain_extraction_strength"].note
    with pytest.raises(ExpungeError, match="retain_extraction_strength is not available"):
        evaluate(
            records=shared_data / "tofu_logs" / f"{PREFIX}full_forget01.json",
            suite="tofu",
            metrics=["retain_extraction_strength"],
        )


def test_a_log_of_one_metric_alone(tmp_path):
    path = tmp_path / "TOFU_EVAL.json"
    content = {
        "forget_Q_A_Prob": {
            "agg_value": 0.3,
            "value_by_index": {"1": {"prob": 0.4, "avg_loss": 0.9}, "0": {"prob": 0.2, "avg_loss": 1.6}},
        }
    }
    path.write_text(json.dumps(content))
    records = load_records(path)
    assert records.splits == ["forget"] and records.where().column("index") == [0, 1]
    found = evaluate(records=records, suite="tofu")
    assert found["forget_probability"].value == pytest.approx(0.3) and found["forget_probability"].per_example == (
        0.2,
        0.4,
    )
    assert "the log TOFU_EVAL.json has no 'forget_Q_A_PERT_Prob.value_by_index'" in found["forget_truth_ratio"].note


def test_tofus_own_log_by_hand(tmp_path):
    def part(losses, wrong, paraphrased, recall):
        columns = {"avg_gt_loss": losses, "average_perturb_loss": wrong, "avg_paraphrased_loss": paraphrased}
        columns |= {"rougeL_recall": recall, "rouge1_recall": recall, "gt_loss": losses}
        return {name: {str(i): v for i, v in enumerate(values)} for name, values in columns.items()}

    log = {
        "eval_log_forget.json": part([0.1, 0.2], [[1.0, 2.0], [3.0, 1.0]], [1.2, 1.8], [0.5, 1.0]),
        "eval_log.json": part([0.3], [[2.0, 4.0]], [1.0], [0.8]),
        "eval_real_author_wo_options.json": part([0.5], [[1.5, 2.5, 3.5]], [0.6], [1.0]),
        "eval_real_world_wo_options.json": part([0.7], [[1.0, 2.0, 3.0]], [0.7], [0.9]),
    }
    log["eval_log_forget.json"]["generated_text"] = {"0": ["q0", "said 0", "true 0"], "1": ["q1", "said 1", "true 1"]}
    path = tmp_path / "eval_log_aggregated.json"
    path.write_text(json.dumps(log))
    records = load_records(path)
    assert records.splits == ["forget", "real_authors", "retain_perturbed", "world_facts"]
    found = evaluate(records=records, reference=path, suite="tofu")
    # truth ratios exp(paraphrased - mean wrong): exp(1.2 - 1.5), exp(1.8 - 2)
    assert found["forget_truth_ratio"].per_example == pytest.approx(np.exp([-0.3, -0.2]), rel=1e-8)
    assert found["forget_quality"].value == 1
    assert found["forget_rouge"].value == pytest.approx(0.75)  # the log's own number, whatever the texts say
    normalized = [
        np.exp(-0.5) / np.exp([-0.5, -1.5, -2.5, -3.5]).sum(),
        np.exp(-0.7) / np.exp([-0.7, -1, -2, -3]).sum(),
    ]
    # the right answer's loss stands in the log twice, .5 and .6: the truth ratio takes the second
    better = [1 - np.exp(1.0 - 3.0), 1 - np.exp(0.6 - 2.5), 1 - np.exp(0.7 - 2.0)]
    parts = [np.exp(-0.3), 0.8, better[0], normalized[0], 1.0, better[1], normalized[1], 0.9, better[2]]
    assert list(found["model_utility"].details.values())[:9] == pytest.approx(parts, rel=1e-8)
    assert found["model_utility"].value == pytest.approx(9 / sum(1 / p for p in parts), rel=1e-8)
    assert [(s.question, s.answer, s.generation) for s in found.samples] == [
        ("q0", "true 0", "said 0"),
        ("q1", "true 1", "said 1"),
    ]
    assert found["mia_min_k"].value is None


def test_our_own_folders(tmp_path):
    records = view(certain(0.2, 0.4))
    records.save(tmp_path / "run" / "records")
    for path in (tmp_path / "run", tmp_path / "run" / "records", tmp_path / "run" / "records" / "records.parquet"):
        assert load_records(path).table.equals(records.table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "neither a folder with records nor a JSON log"),
        ('{"forget_quality": 0.3, "model_utility": null}', "aggregates only; the per-example log is next to it"),
        (
            '{"something": {"else": {"0": 1}}}',
            r"it looks like none of them. Known logs: open-unlearning MUSE_EVAL.json, open-unlearning TOFU_EVAL",
        ),
        ("[1, 2]", "none of them"),
        ('{"forget_Q_A_Prob": {"value_by_index": {"first": {"prob": 1}}}}', "one is called 'first'"),
        ('{"forget_Q_A_Prob": {"value_by_index": {"3": {"prob": -0.5}}}}', "probability -0.5 for example 3 of forget"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, content, message):
    path = tmp_path / "log.json"
    path.write_text(content)
    with pytest.raises(ExpungeError, match=message):
        load_records(path)


def test_nothing_there(tmp_path):
    with pytest.raises(ExpungeError, match=r"no such file or folder. Make them: expunge evaluate"):
        load_records(tmp_path / "nowhere")
    with pytest.raises(ExpungeError, match=r"it holds no records.parquet"):
        load_records(tmp_path)


@pytest.fixture
def log(shared_data):
    """A published log, to be damaged."""
    return json.loads((shared_data / "tofu_logs" / f"{PREFIX}full_forget01.json").read_text())


@pytest.fixture
def scored(shared_data, tmp_path):
    """Measures of a log, with the retain model's published one as reference."""
    retain = shared_data / "tofu_logs" / f"{PREFIX}retain99.json"

    def run(content, reference=retain):
        (tmp_path / "TOFU_EVAL.json").write_text(json.dumps(content))
        return evaluate(records=tmp_path, reference=reference, suite="tofu")  # the folder serves too

    return run


def by_index(log, *keys):
    for key in keys:
        log = log[key]
    return log["value_by_index"]


def test_a_null_leaves_out_its_example_where_it_is_needed(log, scored):
    whole = scored(log)
    by_index(log, "forget_Q_A_Prob")["3"] = None
    by_index(log, "forget_Q_A_PARA_Prob")["4"] = {"prob": None, "avg_loss": None}
    by_index(log, "mia_min_k", "forget")["5"] = {"score": None}
    del by_index(log, "forget_Q_A_PERT_Prob")["6"]
    by_index(log, "retain_Q_A_ROUGE")["7"]["rougeL_recall"] = None
    found = scored(log)

    def left(name, *gone):
        return [value for i, value in enumerate(whole[name].per_example) if i not in gone]

    for name, gone in {"forget_probability": (3,), "forget_truth_ratio": (4, 6), "retain_rouge": (7,)}.items():
        assert found[name].per_example == pytest.approx(left(name, *gone)), name
        assert f"{len(gone)} of {40 if name[0] == 'f' else 400} examples of " in found[name].note
        assert "no number in a log and are left out" in found[name].note
    assert (found["forget_quality"].n, found["mia_min_k"].n, found["privleak"].n) == (38, 39, 39)
    assert found["forget_rouge"] == whole["forget_rouge"]
    # the harmonic mean leaves the example out of all parts of its set
    assert found["model_utility"].n == whole["model_utility"].n - 1
    assert found["model_utility"].details["retain_rouge"] == pytest.approx(np.mean(left("retain_rouge", 7)))
    assert found["model_utility"].details["retain_probability"] == pytest.approx(np.mean(left("retain_probability", 7)))


def test_nothing_but_gaps(log, scored):
    for i, cell in by_index(log, "forget_Q_A_PERT_Prob").items():
        if int(i) < 20:
            cell |= {"prob": None, "avg_loss": None}
    for i, cell in by_index(log, "forget_Q_A_PARA_Prob").items():
        if int(i) >= 20:
            cell |= {"prob": None, "avg_loss": None}
    found = scored(log)["forget_truth_ratio"]
    assert found.value is None and "40 of 40 examples of forget have no number in a log" in found.note


def test_nan_in_a_log_is_no_number(log, scored):
    by_index(log, "forget_Q_A_PARA_Prob")["4"] = {"prob": float("nan"), "avg_loss": float("nan")}
    by_index(log, "mia_min_k", "holdout")["5"]["score"] = float("nan")
    found = scored(log)
    # a rank would have put them last in silence
    for name, column in {"forget_quality": "avg_loss", "privleak": "mia_min_k", "mia_min_k": "mia_min_k"}.items():
        assert found[name].value is None and f"1 of 40 rows of {'forget' if column == 'avg_loss' else 'holdout'}/" in (
            found[name].note
        )
    assert found["mia_loss"].value is not None


def test_a_log_of_finished_truth_ratios_serves_as_reference(log, scored, shared_data, tmp_path):
    retain = json.loads((shared_data / "tofu_logs" / f"{PREFIX}retain99.json").read_text())
    (tmp_path / "few.json").write_text(json.dumps({"forget_truth_ratio": retain["forget_truth_ratio"]}))
    found = scored(log, tmp_path / "few.json")
    assert found["forget_quality"].value == pytest.approx(6.760732304e-03, rel=1e-9)
    assert found["privleak"].details["default_reference"] == 1
    assert "Not compared: the log few.json has no 'mia_min_k.forget.value_by_index'" in found["privleak"].note
    itself = evaluate(records=tmp_path / "few.json", suite="tofu")
    assert itself["forget_truth_ratio"].value == pytest.approx(0.6516009670, rel=1e-9)


def test_scores_with_the_logs_own_reference_model(log, scored):
    found = scored(log)
    assert found["mia_reference"].value == pytest.approx(log["mia_reference"]["auc"], rel=1e-9)
    assert found["mia_reference"].note.startswith("Compared with the reference model of the log")
    del log["mia_reference"]
    assert "no records of a retain model" not in scored(log)["mia_reference"].note


def test_losses_are_those_of_probabilities_where_a_log_has_no_losses(log, scored):
    whole = scored(log)
    for name in ("forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob", "wf_Q_A_Prob"):
        for cell in by_index(log, name).values():
            del cell["avg_loss"]
    found = scored(log)
    for name in ("forget_quality", "forget_truth_ratio", "world_facts_probability", "model_utility"):
        assert found[name].value == pytest.approx(whole[name].value, rel=1e-6), name  # probabilities are float32


def test_a_log_of_another_forget_set_is_no_reference(shared_data):
    folder = shared_data / "tofu_logs"
    found = evaluate(
        records=folder / f"{PREFIX}full_forget10.json", reference=folder / f"{PREFIX}retain99.json", suite="tofu"
    )
    assert found["forget_quality"].value is None and "other examples of forget" in found["forget_quality"].note
    assert found["privleak"].details["default_reference"] == 1 and "Not compared" in found["privleak"].note
    assert found["forget_probability"].value is not None and found["model_utility"].value is not None


def test_what_else_a_log_holds_is_passed_over(log, scored):
    whole = scored(log)
    log |= {"note": "text", "config": None, "other": {"value_by_index": {"a": 1}}, "forget_Q_A_ROUGE": None}
    by_index(log, "forget_Q_A_Prob")["0"]["perplexity"] = 3
    found = scored(log)
    assert "has no 'forget_Q_A_ROUGE.value_by_index'" in found["forget_rouge"].note
    assert all(found[name] == whole[name] for name in whole if name != "forget_rouge")
    by_index(log, "forget_Q_A_Prob")["0"]["avg_loss"] = "0.1"
    with pytest.raises(ExpungeError, match=r"holds no number for example 0: 0\.1"):
        scored(log)


def numbered(*values):
    return {"agg_value": 0.5, "value_by_index": {str(i): value for i, value in enumerate(values)}}


def test_a_log_of_muse(tmp_path):
    def said(f1):
        texts = {"input": "Who?", "ground_truth": "Ann Lee wrote it.", "generation": "Ann."}
        return {"rouge1_recall": 0.1, "rougeL_f1": f1, "rougeL_recall": 0.2, **texts}

    member = {"agg_value": 0.5, "forget": numbered({"score": 1.0}), "holdout": numbered({"score": 2.0})}
    content = {
        "forget_knowmem_ROUGE": numbered(said(0.25), said(0.75)),
        "retain_knowmem_ROUGE": numbered(said(1.0)),
        "forget_verbmem_ROUGE": numbered(said(0.5)),
        "extraction_strength": numbered({"score": 0.3}),
        "mia_min_k": member,
        "privleak": {"agg_value": -90.0},
        "forget_gibberish": numbered({"score": 0.9}),
    }
    (tmp_path / "MUSE_EVAL.json").write_text(json.dumps(content))
    records = load_records(tmp_path)
    assert records.manifest.arguments["format"] == "open-unlearning MUSE_EVAL.json"
    found = evaluate(records=tmp_path, suite="muse")
    names = ("knowmem_forget", "knowmem_retain", "verbmem", "extraction_strength")
    assert [found[name].value for name in names] == pytest.approx([0.5, 1.0, 0.5, 0.3])
    assert records.where(split="knowmem_forget").column("generation") == ["Ann.", "Ann."]
    assert found["repetition"].value == 0  # of the texts that the log holds
    # What no column is for stays as the number that the log has.
    assert found["log_forget_gibberish"].value == 0.5 and found["log_forget_gibberish"].better == "lower"
    assert "log_privleak" not in found  # computed again


def test_texts_in_a_log_of_tofu_become_records(tmp_path):
    texts = {"input": "Who?", "ground_truth": "Ann Lee.", "generation": "Ann."}
    scores = {"rouge1_recall": 0.1, "rougeL_f1": 0.3, "rougeL_recall": 0.7}
    content = {
        "forget_Q_A_ROUGE": numbered(scores | texts),
        "retain_extraction_strength": numbered({"score": 0.2}),
        "my_own_metric": {"agg_value": 3.5},
        "broken": {"agg_value": None},
    }
    (tmp_path / "TOFU_EVAL.json").write_text(json.dumps(content))
    found = evaluate(records=tmp_path, suite="tofu")
    assert [(s.question, s.answer, s.generation) for s in found.samples] == [("Who?", "Ann Lee.", "Ann.")]
    assert found["forget_rouge"].value == 0.7  # the log's own number
    assert found["retain_extraction_strength"].value == 0.2
    assert found["log_my_own_metric"].value == 3.5 and "log_broken" not in found


def test_everything_in_the_published_logs_is_read(shared_data):
    for path in sorted((shared_data / "tofu_logs").glob("*.json")):
        assert load_records(path).manifest.results["log_values"] == {}
