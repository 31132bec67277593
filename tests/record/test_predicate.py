"""What a record says: the verdict with its reasons, and that nothing missing is made up."""

import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

import made_run
from expunge.core.catalogue import names
from expunge.record.attack_classes import CLASSES, classified
from expunge.record.earlier import Earlier
from expunge.record.policy import Policy, load_policy
from expunge.record.predicate import ERASED, NO_BASELINE, RESIDUAL, Evidence, predicate
from expunge.report.paired import share_interval
from expunge.results.attacked import Attacked, Column, Leak

DEFAULT = load_policy("default")
LEAKING = {"prompts.quiz": (0.0, 0.5, 0.0, 0.2, 0.0, 0.1)}


def evidence(**changes: Any) -> Evidence:
    """Evidence for which the default policy says that the rows were erased."""
    sound: dict[str, Any] = {
        "request": "REQ-17",
        "date": date(2026, 1, 31),
        "received": "2026-01-20",
        "run": made_run.manifest({"model.safetensors": "sha256:00"}),
        "policy": DEFAULT,
        "scope": {"rows": 6},
        "evaluation": made_run.evaluation(forget_repetition=0.1),
        "attacked": made_run.attacked(),
    }
    return Evidence(**{**sound, **changes})


def told(**changes: Any) -> dict[str, Any]:
    found = predicate(evidence(**changes))
    json.dumps(found, allow_nan=False)
    return found


def verdict(**changes: Any) -> tuple[str, list[str]]:
    found = told(**changes)["verdict"]
    return found["text"], found["reasons"]


def test_what_resists_all_that_the_policy_asks_for_is_erased_against_what_was_tried() -> None:
    assert verdict() == (ERASED, [])


def test_facts_that_leak_are_residual_up_to_the_share_that_the_policy_allows() -> None:
    attacked = made_run.attacked(LEAKING)
    assert verdict(attacked=attacked) == (RESIDUAL, ["2 of 6 facts leak"])
    assert verdict(attacked=attacked, policy=replace(DEFAULT, largest_share_leaking=0.34))[0] == ERASED
    assert verdict(attacked=attacked, policy=replace(DEFAULT, largest_share_leaking=0.33))[0] == RESIDUAL


def test_without_a_model_that_never_saw_the_rows_there_is_no_verdict() -> None:
    for control in (None, "untaught facts"):
        text, reasons = verdict(attacked=made_run.attacked(control=control))
        assert text == NO_BASELINE and reasons[0].startswith("no reference")
    base = made_run.attacked(control="model that never saw the rows")
    assert told(attacked=base)["reference"]["kind"] == "base" and verdict(attacked=base)[0] == ERASED
    strict = replace(DEFAULT, references=("retrained",))
    assert verdict(attacked=base, policy=strict) == (
        NO_BASELINE,
        ["the reference is base; the policy asks for retrained"],
    )


def test_without_attacks_the_evaluation_s_reference_counts_and_every_attack_is_missing() -> None:
    text, reasons = verdict(attacked=None, evaluation=made_run.evaluation(reference=True, forget_repetition=0.1))
    assert text == RESIDUAL and len(reasons) == len(DEFAULT.attacks)
    assert verdict(attacked=None)[0] == NO_BASELINE


def test_a_start_model_that_did_not_know_is_no_baseline() -> None:
    text, reasons = verdict(start=made_run.evaluation(made_run.START, forget_probability=0.05, retain_probability=0.8))
    assert text == NO_BASELINE and reasons == [
        "the start model did not know the rows: probability 0.05, and the policy asks for 0.1"
    ]
    untold = made_run.manifest(probability={})
    assert verdict(run=untold)[0] == NO_BASELINE and told(run=untold)["baseline"]["known"] == "not given"


def test_an_evaluation_of_the_start_model_goes_before_what_the_run_measured() -> None:
    assert told()["baseline"]["value"] == 0.9
    found = told(start=made_run.evaluation(made_run.START, forget_probability=0.7))["baseline"]
    assert (found["value"], found["interval"], found["n"], found["known"]) == (0.7, (0.7, 0.7), 6, True)


def test_rows_of_earlier_requests_do_not_count_for_the_baseline() -> None:
    rows = [{"row": row, "before": value, "after": 0.0} for row, value in enumerate((0.9, 0.7, 0.01, 0.02))]
    probability = {"before": {"forget": 0.06}, "after": {"forget": 0.001}, "forget_rows": rows}
    before = Earlier(request="REQ-1", run="first", digest="sha256:0", rows=2, facts=(2, 3))
    run = made_run.manifest(probability=probability)
    found = told(run=run, start=None, earlier=(before,))["baseline"]
    assert found["value"] == pytest.approx(0.8) and found["n"] == 2 and found["known"]
    assert found["from"] == "the run, on some rows, those that are new"
    assert told(run=run, start=None)["baseline"]["value"] == pytest.approx(0.4075)  # all are of this request


def test_utility_counts_from_the_first_request_on() -> None:
    start = made_run.evaluation(made_run.START, forget_probability=0.9, retain_probability=0.8)
    after = made_run.evaluation(forget_repetition=0.1, retain_probability=0.76)
    before = {"digest": "sha256:0", "run": "first", "requests": ["REQ-1"], "verdict": ERASED, "kept": 0.94}
    found = told(start=start, evaluation=after, predecessor=before)
    assert found["utility"]["kept"] == pytest.approx(0.95)
    assert found["utility"]["kept_since_first"] == pytest.approx(0.95 * 0.94)
    assert found["verdict"]["text"] == RESIDUAL and found["verdict"]["reasons"] == [
        "89 % of retain_probability was kept since the first request, 95 % by this one; the policy asks for 90 %"
    ]
    assert told(start=start, evaluation=after)["utility"]["kept_since_first"] == pytest.approx(0.95)


def test_the_upper_end_is_that_of_the_attack_that_reaches_highest() -> None:
    full = made_run.attacked(LEAKING)
    ((name, values),) = LEAKING.items()
    tried = Leak(name=name, measure="extraction strength", facts=(0, 1), values=values[:2])
    some = tuple(replace(c, leak=tried) if c.name == name else c for c in full.columns)
    found = told(attacked=replace(full, columns=some))
    high = share_interval(1, 2)[1]
    assert (
        f"up to {100 * high:.0f} % of those may (95 % interval, of the 2 that {name} was tried on)"
        in (found["residual_risk"][0])
    )


@pytest.mark.parametrize("name", DEFAULT.attacks)
def test_a_required_attack_that_was_not_run_is_named(name: str) -> None:
    full = made_run.attacked()
    columns = tuple(column for column in full.columns if not column.name.startswith(name))
    text, reasons = verdict(attacked=replace(full, columns=columns))
    assert (text, reasons) == (RESIDUAL, [f"the attack {name} was not run"])
    # Listed and without a result is no better.
    broken = (*columns, Column(name=name, leak=None, control=None, threshold=0.2, note="it needs the retain set"))
    assert verdict(attacked=replace(full, columns=broken)) == (RESIDUAL, [f"the attack {name} was not run"])


def test_a_form_that_the_policy_names_is_that_form_alone() -> None:
    policy = replace(DEFAULT, attacks=("quantize.int8",))
    assert verdict(policy=policy) == (RESIDUAL, ["the attack quantize.int8 was not run"])
    assert verdict(policy=replace(DEFAULT, attacks=("quantize.nf4",)))[0] == ERASED
    assert verdict(policy=replace(DEFAULT, attacks=("quant",)))[0] == RESIDUAL


def test_a_threshold_under_which_nothing_could_leak_does_not_count() -> None:
    text, reasons = verdict(attacked=made_run.attacked(LEAKING, threshold=0.9))
    assert text == RESIDUAL and len(reasons) == 1 and "is laxer than 0.2" in reasons[0]


def test_facts_without_a_value_are_not_taken_for_facts_that_do_not_leak() -> None:
    few = {name: (0.0, 0.0) for name in made_run.REQUIRED}
    found = told(attacked=made_run.attacked(few), policy=replace(DEFAULT, least_tested=0.3))
    assert found["attacks_together"]["tested"] == 2 and found["attacks_together"]["facts"] == 6
    assert found["verdict"]["text"] == RESIDUAL
    assert found["verdict"]["reasons"] == ["4 of the facts had no value in any attack"]
    assert "4 facts had no value in any attack." in found["residual_risk"]


def test_facts_that_a_successful_attack_left_out_are_told() -> None:
    some = {**{name: (0.0,) * 6 for name in made_run.REQUIRED}, "relearn.forget": (0.0, 0.5, 0.5)}
    (sentence,) = [one for one in told(attacked=made_run.attacked(some))["residual_risk"] if "tested" in one]
    assert sentence == (
        "The attack relearn.forget tested 3 of 6 facts, and 2 of these leak; it says nothing about the others."
    )


def test_a_weaker_attack_of_the_same_name_is_not_what_the_policy_asks_for() -> None:
    weak = replace(made_run.attacked(), settings={"attacks": {"relearn": {"steps": 1}, "lens": {}}})
    reason = "the attack relearn was run with steps=1; the policy asks for its defaults"
    assert verdict(attacked=weak) == (RESIDUAL, [reason])
    assert verdict(attacked=weak, policy=replace(DEFAULT, settings={"relearn": {"steps": 1}}))[0] == ERASED
    stronger = replace(DEFAULT, settings={"relearn": {"steps": 30}})
    assert verdict(policy=stronger)[1] == ["the attack relearn was run with its defaults; the policy asks for steps=30"]


def test_an_attack_on_few_facts_is_not_enough() -> None:
    few = made_run.attacked({"relearn.forget": (0.0, 0.0)})
    assert verdict(attacked=few) == (RESIDUAL, ["the attack relearn has a value for 2 of 6 facts only"])
    assert verdict(attacked=few, policy=replace(DEFAULT, least_tested=1 / 3))[0] == ERASED


def test_a_reference_that_gives_the_answers_is_none() -> None:
    full = made_run.attacked()
    plain, *others = full.columns
    assert plain.leak and plain.name == "plain"
    knowing = replace(plain, control=replace(plain.leak, values=(1.0, 1.0, 1.0, 0.5, 0.5, 0.5)))
    text, (reason,) = verdict(attacked=replace(full, columns=(knowing, *others)))
    assert text == NO_BASELINE and reason.startswith("the reference knows the rows: it gives 0.75 of the answers")


def test_utility_is_the_share_that_is_kept() -> None:
    found = told()["utility"]
    assert found["from"].startswith("the run") and found["kept"] == pytest.approx(0.95)  # 0.76 of 0.8
    both = {
        "start": made_run.evaluation(made_run.START, forget_probability=0.9, retain_probability=0.8, model_utility=0.6),
        "evaluation": made_run.evaluation(forget_repetition=0.1, retain_probability=0.8, model_utility=0.48),
    }
    found = told(**both)["utility"]
    assert found["measure"] == "model_utility" and found["kept"] == pytest.approx(0.8)
    assert verdict(**both) == (RESIDUAL, ["80 % of model_utility was kept; the policy asks for 90 %"])
    missing = made_run.evaluation(retain_probability=0.8, model_utility=None)
    assert told(**{**both, "evaluation": missing})["utility"]["measure"] == "retain_probability"
    alone = made_run.manifest(probability={"before": {"forget": 0.9}, "after": {"forget": 0.1}})
    assert verdict(run=alone) == (RESIDUAL, ["nothing says what utility was kept"])


def test_a_model_with_a_fault_is_not_erased_however_little_leaks() -> None:
    sound = made_run.evaluation(forget_repetition=0.1, retain_probability=0.76)
    assert told(evaluation=sound)["faults"] == [] and verdict(evaluation=sound)[0] == ERASED
    broken = made_run.evaluation(forget_repetition=0.6, retain_probability=0.76)
    text, reasons = verdict(evaluation=broken)
    assert text == RESIDUAL and reasons == [
        "the model does not count as having forgotten: it repeats itself (forget repetition 0.6)"
    ]
    assert verdict(evaluation=broken, policy=replace(DEFAULT, faults_allowed=True))[0] == ERASED
    alike = made_run.evaluation(made_run.START, forget_repetition=0.6, forget_probability=0.9, retain_probability=0.8)
    assert verdict(evaluation=broken, start=alike)[0] == ERASED  # the start model repeats itself, too


def test_without_an_evaluation_nobody_looked_for_faults() -> None:
    found = told(evaluation=None)
    assert found["faults"] == "not given"
    assert "The model was not evaluated: nothing says whether it still writes text." in found["limits"]
    text, reasons = verdict(evaluation=None)
    why = "no evaluation says whether the model still writes text, and the policy allows no faults"
    assert (text, reasons) == (RESIDUAL, [why])
    assert verdict(evaluation=None, policy=replace(DEFAULT, faults_allowed=True)) == (ERASED, [])


@pytest.mark.parametrize("values", [{"forget_probability": 0.1}, {"forget_repetition": None}])
def test_an_evaluation_without_a_measure_of_the_text_has_not_looked_at_it(values: dict[str, float | None]) -> None:
    bare = made_run.evaluation(**values)
    found = told(evaluation=bare)
    assert found["text_seen_by"] == []
    assert "No measure of the evaluation looked at what the model writes (repetition, fluency)." in found["limits"]
    text, (reason,) = verdict(evaluation=bare)
    assert text == RESIDUAL and reason.startswith("no measure of the evaluation looked at what the model writes")
    assert verdict(evaluation=bare, policy=replace(DEFAULT, faults_allowed=True)) == (ERASED, [])
    assert told()["text_seen_by"] == ["forget_repetition"]
    assert told(evaluation=made_run.evaluation(forget_fluency=0.9))["text_seen_by"] == ["forget_fluency"]


def test_what_neighbors_lost_is_listed() -> None:
    assert told()["neighbors"] == "not given"
    after = made_run.evaluation(real_authors_rouge=0.5, retain_probability=0.8, **{"neighbors.rouge": 0.25})
    before = made_run.evaluation(made_run.START, forget_probability=0.9, real_authors_rouge=0.75)
    found = {one["measure"]: one for one in told(evaluation=after, start=before)["neighbors"]}
    assert set(found) == {"real_authors_rouge", "neighbors.rouge"}
    assert found["real_authors_rouge"]["change"] == -0.25
    assert found["neighbors.rouge"]["change"] == found["neighbors.rouge"]["before"] == "not given"


def test_an_attack_has_its_class_access_n_result_and_threshold() -> None:
    entry = next(e for e in told(attacked=made_run.attacked(LEAKING))["attacks"] if e["name"] == "prompts.quiz")
    assert (entry["class"], entry["access"], entry["status"]) == ("exfiltration", "queries", "ran")
    assert (entry["n"], entry["threshold"]) == (6, 0.2)
    result = entry["result"]
    assert result["mean"] == pytest.approx(0.8 / 6) and result["leaking"] == 2
    assert result["interval"][0] < 0.8 / 6 < result["interval"][1]
    assert result["share_leaking"] == pytest.approx(1 / 3) and result["share_interval"] == share_interval(2, 6)


def test_every_attack_of_the_catalogue_has_a_class() -> None:
    found = {name: classified(name)[0] for name in names("attacks")}
    assert len(found) > 3 and set(found.values()) <= set(CLASSES)
    assert classified("mia_min_k")[0] == classified("privleak")[0] == "membership inference"
    assert classified("package.module:attack") == ("not classified", "not stated")


def test_each_class_was_run_or_not_or_is_out_of_scope() -> None:
    policy = replace(
        DEFAULT,
        out_of_scope={"attribute inference": "no attributes are asked for", "regurgitation": "run all the same"},
    )
    found = told(policy=policy, evaluation=made_run.evaluation(mia_loss=0.5, mia_zlib=None))
    assert found["classes"] == {
        "membership inference": "ran",
        "attribute inference": "out of scope: no attributes are asked for",
        "exfiltration": "ran",
        "regurgitation": "ran",
        "model inversion": "ran",
        "reconstruction": "ran",
    }
    assert [e["name"] for e in found["attacks"] if e["name"].startswith("mia")] == ["mia_loss"]
    assert found["residual_risk"][-1] == "Classes of attacks that were not tried: attribute inference."


def test_what_is_missing_is_said_to_be() -> None:
    bare = replace(made_run.manifest({"model.safetensors": "sha256:00"}), git=None)
    results = {k: v for k, v in bare.results.items() if k in ("finished", "files")}
    found = told(run=replace(bare, results=results, inputs={}, arguments={}), attacked=None, scope={})
    for way in (
        ("request", "ground"),
        ("start_model", "name"),
        ("start_model", "fingerprint"),
        ("start_model", "files"),
        ("tokenizer", "fingerprint"),
        ("template", "settings"),
        ("lineage", "result"),
        ("lineage", "derivatives"),
        ("method", "code"),
        ("method", "steps"),
        ("method", "training_seconds"),
        ("baseline", "known"),
        ("utility", "kept"),
        ("sources", "attacked"),
        ("release",),
    ):
        value: Any = found
        for name in way:
            value = value[name]
        assert value == "not given", way
    assert found["lineage"]["predecessor"] is None and found["signer"] is None
    assert found["attacks_together"] == {"status": "not run"} and set(found["classes"].values()) == {"not run"}
    assert {entry["status"] for entry in found["attacks"]} == {"not run"}


def test_what_is_known_is_told() -> None:
    found = told(ground="GDPR Art. 17(1)(b)", release="open weights")
    assert found["request"] == {"id": "REQ-17", "received": "2026-01-20", "ground": "GDPR Art. 17(1)(b)"}
    assert found["method"]["training_seconds"] == 5.0 and found["method"]["seed"] == 7
    assert found["method"]["code"] == {"commit": "abc", "dirty": False} and found["release"] == "open weights"
    assert found["test_again"]["by"] == "2026-07-30"  # 180 days later
    assert found["policy"]["name"] == "default" and "no proof" in found["proves"]


def test_limits_depend_on_the_model() -> None:
    plain = told()
    adapter = told(run=made_run.manifest({"adapter_config.json": "sha256:00"}), weights_compared=False)
    assert adapter["lineage"]["form"] == "adapter" and len(adapter["limits"]) == len(plain["limits"]) + 1
    assert adapter["attacks_together"]["weights"].startswith("not compared")
    assert adapter["verdict"]["text"] == RESIDUAL and "could not be compared" in adapter["verdict"]["reasons"][0]
    merged = replace(made_run.manifest(), arguments={"adapter": "lora"})
    assert told(run=merged)["lineage"]["form"] == "merged adapter"
    after = told(predecessor={"digest": "sha256:1", "run": "b", "requests": ["R-1", "R-2"], "verdict": ERASED})
    assert after["limits"][-1].startswith("Rows of earlier requests whose records are not here (R-1, R-2)")


def test_the_tokenizer_s_and_the_template_s_files_are_those_of_the_run() -> None:
    files = {"tokenizer.json": "sha256:1", "chat_template.jinja": "sha256:2", "model.safetensors": "sha256:3"}
    found = told(run=made_run.manifest(files))
    assert found["tokenizer"]["files"] == {"tokenizer.json": "sha256:1"}
    assert found["template"]["files"] == {"chat_template.jinja": "sha256:2"}


def test_no_text_of_the_rows_is_in_it() -> None:
    attacked: Attacked = made_run.attacked(LEAKING)
    said = json.dumps(told(attacked=attacked))
    assert not [text for text in (*attacked.questions, *attacked.answers) if text in said]


def test_a_policy_that_asks_for_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="attacks must name"):
        Policy(attacks=())
