"""What a record says: a pure function of a finished run, what was measured of it, and a policy. No file is read here.

What is missing is said to be `not given` or `not run`; nothing is filled in.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from expunge.core.format import counted, number
from expunge.core.manifest import Manifest, versions
from expunge.record.attack_classes import CLASSES, classified
from expunge.record.earlier import CAME_BACK, IN_PART, NOT_TESTED, Earlier, retested
from expunge.record.policy import Policy, Reference
from expunge.report.compared_models import Model
from expunge.report.faults import faults as faults_of
from expunge.report.faults import measures_of_text
from expunge.report.paired import share_interval
from expunge.results.attacked import PLAIN, Attacked, Column, Leak
from expunge.results.attacked import untested as partly_tested
from expunge.results.measures import Evaluation, Measure

VERSION = 2
NOT_GIVEN, NOT_RUN, RAN = "not given", "not run", "ran"
SAME = "those of the run"
ERASED = "ERASED (against what was tried)"
RESIDUAL = "RESIDUAL"
NO_BASELINE = "NO BASELINE"

PROVES = (
    "How far the model in these files resists the attacks that are listed as run, with the settings and thresholds "
    "that are listed. Where nothing leaked, that is evidence against recovery by these attacks. It is no proof that "
    "nothing of the rows is left in the weights."
)
LIMITS = (
    "Other attacks, other prompts and stronger attackers were not tried.",
    "Other rows that tell the same facts are not in the scope, and may still teach them.",
    "Copies are not covered: the start model, checkpoints, backups, caches, logs, and models made from these.",
)
AGAIN = (
    "after any further training, merging, pruning or quantization",
    "when the model is released to more people, or with more access",
    "when a stronger attack becomes known",
)
_REFERENCES: Mapping[str | None, Reference] = {
    "retain model": "retrained",
    "model that never saw the rows": "base",
}
"""What the control of an attack is in the words of a record; untaught facts are no other model."""
_MEMBERSHIP = ("mia_", "privleak")
_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "spiece", "sentencepiece")
_TEMPLATE = "chat_template"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a record is made of."""

    request: str
    """The name of the request in the controller's files."""
    date: date
    """Of the record."""
    run: Manifest
    policy: Policy
    scope: Mapping[str, Any]
    """From `scope`."""
    received: str | None = None
    """Day on which the request came in."""
    ground: str | None = None
    """Legal ground of the request."""
    release: str | None = None
    """Who gets the model, and with what access."""
    evaluation: Evaluation | None = None
    """Of the resulting model."""
    start: Evaluation | None = None
    """Of the start model, before unlearning."""
    retrained: Evaluation | None = None
    """Of the retain model that the evaluation was compared with."""
    attacked: Attacked | None = None
    weights_compared: bool = True
    """Were the weights that were attacked compared with those in the run folder?"""
    sources: Mapping[str, str | None] = field(default_factory=dict)
    """SHA-256 of the files of evaluation, start and attacked, by these names; None where they were read from none."""
    start_files: Mapping[str, str] | None = None
    """SHA-256 of each file of the start model; None: they are not here."""
    derivatives: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of quantized or otherwise derived models, by their names."""
    predecessor: Mapping[str, Any] | None = None
    """Record of the run that this one stands on, from `summary`."""
    earlier: Sequence[Earlier] = ()
    """Requests before it on the same model line."""
    signer: Mapping[str, str] | None = None
    """Who signs the record."""


def predicate(of: Evidence) -> dict[str, Any]:
    """The predicate of a record, with its verdict."""
    results, files = of.run.results, of.run.results.get("files", {})
    tried = attacks(of.attacked, of.evaluation, of.policy)
    found = {
        "version": VERSION,
        "recorder": versions(),
        "proves": PROVES,
        "date": of.date.isoformat(),
        "request": {"id": of.request, "received": of.received or NOT_GIVEN, "ground": of.ground or NOT_GIVEN},
        "scope": dict(of.scope),
        "start_model": {
            "name": results.get("start_model") or NOT_GIVEN,
            "fingerprint": of.run.inputs.get("model", NOT_GIVEN),
            "files": NOT_GIVEN if of.start_files is None else dict(of.start_files),
        },
        "tokenizer": {
            "fingerprint": of.run.inputs.get("tokenizer", NOT_GIVEN),
            "files": {name: digest for name, digest in files.items() if _file(name).startswith(_TOKENIZER)},
        },
        "template": {
            "settings": of.run.arguments.get("template", NOT_GIVEN),
            "files": {name: digest for name, digest in files.items() if _file(name).startswith(_TEMPLATE)},
        },
        "lineage": {
            "form": _form(of.run),
            "result": results.get("result", NOT_GIVEN),
            "start_adapter": of.run.inputs.get("start_adapter", NOT_GIVEN),
            "derivatives": dict(of.derivatives) or NOT_GIVEN,
            "predecessor": dict(of.predecessor) if of.predecessor else None,
        },
        "method": {
            "stage": of.run.stage,
            "settings": of.run.arguments,
            "seed": of.run.seed,
            "code": of.run.git or NOT_GIVEN,
            "versions": of.run.versions,
            "created": of.run.created,
            "steps": results.get("steps", NOT_GIVEN),
            "training_seconds": _seconds(results),
        },
        "earlier_requests": retested(of.earlier, of.attacked),
        "baseline": baseline(of.run, of.start, of.policy, earlier={fact for one in of.earlier for fact in one.facts}),
        "reference": reference(of.attacked, of.evaluation),
        "attacks": tried,
        "attacks_together": together(of.attacked, compared=of.weights_compared),
        "classes": classes(tried, of.policy),
        "utility": in_all(utility(of.run, of.start, of.evaluation, of.policy), of.predecessor),
        "faults": faults(of.start, of.evaluation, of.retrained),
        "text_seen_by": list(measures_of_text(of.evaluation)) if of.evaluation is not None else NOT_GIVEN,
        "neighbors": neighbors(of.start, of.evaluation, of.policy),
        "sources": {name: of.sources.get(name) or NOT_GIVEN for name in ("evaluation", "start", "attacked")},
        "release": of.release or NOT_GIVEN,
        "policy": of.policy.as_json(),
        "signer": dict(of.signer) if of.signer else None,
    }
    found["residual_risk"] = residual_risk(found)
    found["limits"] = [*LIMITS, *_further_limits(found)]
    found["test_again"] = {
        "by": (of.date + timedelta(days=of.policy.retest_days)).isoformat(),
        "or": list(AGAIN),
    }
    found["verdict"] = verdict(found, of.policy)
    return found


def baseline(
    run: Manifest, start: Evaluation | None, policy: Policy, *, earlier: Collection[int] = ()
) -> dict[str, Any]:
    """Did the start model know the rows? By an evaluation of it, else by what the run measured before its steps.

    Rows of earlier requests, which the start model was made to forget, do not count; only runs of before rows were told
    apart say nothing of the new ones alone.
    """
    if (measure := _value(start, "forget_probability")) is not None:
        whole = {"from": "an evaluation of the start model", **_told(measure)}
        rows: Mapping[int, float] = dict(enumerate(measure.per_example))
    elif (value := _probability(run, "before", "forget")) is not None:
        told = run.results["probability"].get("forget_rows", [])
        rows = {one["row"]: one["before"] for one in told}
        whole = {"from": "the run, on some rows", "value": value, "interval": None, "n": len(rows) or NOT_GIVEN}
    else:
        return {"from": NOT_GIVEN, "known": NOT_GIVEN}
    new = [value for row, value in rows.items() if row not in earlier]
    found = whole
    if earlier and new:
        found = {"from": f"{whole['from']}, those that are new", "value": sum(new) / len(new), "interval": None}
        found["n"] = len(new)
    elif rows and not earlier:
        found = {**whole, "value": sum(new) / len(new)}  # a mean over rows, as an evaluation has it
    return {"measure": "forget_probability", **found, "known": found["value"] >= policy.least_known}


def reference(attacked: Attacked | None, evaluation: Evaluation | None) -> dict[str, Any]:
    """What the model was compared with: that of the attacks, where there are some, else that of the evaluation."""
    known = (evaluation.about.get("reference") or {}).get("model") if evaluation is not None else None
    if attacked is not None:
        kind = _REFERENCES.get(attacked.control, "none")
        told = {"attacks": attacked.control or "nothing", "weights": attacked.inputs.get("control", NOT_GIVEN)}
        return {"kind": kind, **told, "evaluation": known or NOT_GIVEN}
    return {"kind": "retrained" if known else "none", "attacks": NOT_RUN, "evaluation": known or NOT_GIVEN}


def attacks(attacked: Attacked | None, evaluation: Evaluation | None, policy: Policy) -> list[dict[str, Any]]:
    """Every attack, those that the policy asks for and nobody tried, and membership inference of the evaluation."""
    found = [_of_column(column) for column in attacked.columns] if attacked is not None else []
    found += [
        _entry(name, note="the policy asks for it")
        for name in policy.attacks
        if not any(_is(entry["name"], name) for entry in found)
    ]
    measures = evaluation.items() if evaluation is not None else ()
    return found + [
        _of_measure(name, one) for name, one in measures if name.startswith(_MEMBERSHIP) and one.value is not None
    ]


def _entry(name: str, *, note: str, **known: Any) -> dict[str, Any]:
    kind, access = classified(name)
    nothing = {"status": NOT_RUN, "n": 0, "threshold": NOT_GIVEN, "result": NOT_RUN}
    return {"name": name, "class": kind, "access": access, **nothing, **known, "note": note}


def _of_column(column: Column) -> dict[str, Any]:
    if column.status != "ran" or column.leak is None or column.mean is None:
        why = "it says nothing without a control" if column.status == "no control" else "it gave no value"
        return _entry(column.name, note=column.note or why, threshold=column.threshold)
    n, leaking = len(column.recovery), len(column.leaking)
    result = {
        "measure": f"{column.leak.measure}, above the control" if column.control else column.leak.measure,
        "model": _mean(column.leak),
        "reference": NOT_GIVEN if column.control is None else _mean(column.control),
        "mean": column.mean,
        "interval": column.interval,
        "leaking": leaking,
        "share_leaking": leaking / n,
        "share_interval": share_interval(leaking, n),
    }
    note = " ".join(filter(None, (column.note, column.passed)))
    return _entry(column.name, status=RAN, n=n, threshold=column.threshold, result=result, note=note)


def _mean(leak: Leak) -> float:
    return sum(leak.values) / len(leak.values)


def _of_measure(name: str, measure: Measure) -> dict[str, Any]:
    return _entry(name, status=RAN, n=measure.n, result={"target": measure.target, **_told(measure)}, note=measure.note)


def together(attacked: Attacked | None, *, compared: bool) -> dict[str, Any]:
    """All attacks taken together, by facts: one leaks where it leaks in at least one attack."""
    if attacked is None or not attacked.worst:
        return {"status": NOT_RUN}
    tested, leaking = len(attacked.worst), len(attacked.leaking)
    return {
        "status": RAN,
        "facts": len(attacked.questions),
        "tested": tested,
        "leaking": leaking,
        "share_leaking": leaking / tested,
        "share_interval": share_interval(leaking, tested),
        "settings": attacked.settings,
        "weights": SAME if compared else "not compared: the adapter was merged before",
    }


def classes(tried: Sequence[Mapping[str, Any]], policy: Policy) -> dict[str, str]:
    """Each class of the EDPB's paragraph: was an attack of it run?"""
    ran = {entry["class"] for entry in tried if entry["status"] == RAN}
    left_out = {name: f"out of scope: {reason}" for name, reason in policy.out_of_scope.items()}
    return {name: RAN if name in ran else left_out.get(name, NOT_RUN) for name in CLASSES}


def utility(run: Manifest, start: Evaluation | None, evaluation: Evaluation | None, policy: Policy) -> dict[str, Any]:
    """The share of the start model's utility that is kept: by evaluations of both, else by what the run measured."""
    for name in policy.utility:
        before, after = _value(start, name), _value(evaluation, name)
        if before is not None and after is not None and float(before) > 0:
            told = {"before": _told(before), "after": _told(after), "kept": float(after) / float(before)}
            return {"from": "evaluations of both models", "measure": name, **told}
    known, kept = _probability(run, "before", "retain"), _probability(run, "after", "retain")
    if not known or kept is None:
        return {"from": NOT_GIVEN, "kept": NOT_GIVEN}
    told = {"before": {"value": known}, "after": {"value": kept}, "kept": kept / known}
    return {"from": "the run, on some rows", "measure": "retain_probability", **told}


def in_all(utility: Mapping[str, Any], predecessor: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was kept, and what of it is left over all requests of the model line so far: the product of their shares."""
    if predecessor is None:
        return {**utility, "kept_since_first": utility["kept"]}
    before = predecessor.get("kept", NOT_GIVEN)
    known = all(isinstance(share, float) for share in (utility["kept"], before))
    return {**utility, "kept_since_first": utility["kept"] * before if known else NOT_GIVEN}


def faults(start: Evaluation | None, evaluation: Evaluation | None, retrained: Evaluation | None = None) -> Any:
    """What a report says against the model: it repeats itself, writes gibberish, declines to answer, and the like."""
    if evaluation is None:
        return NOT_GIVEN
    own = Model(evaluation)
    given = ((start, "start"), (retrained, "retain"))
    beside = [Model(held, role) for held, role in given if held is not None]  # type: ignore[arg-type]
    return list(faults_of(own, [*beside, own]))


def neighbors(start: Evaluation | None, evaluation: Evaluation | None, policy: Policy) -> Any:
    """What measures of sets near the forget set lost; `not given` where no such set was measured."""
    sets = tuple(f"{name}{mark}" for name in policy.neighbors for mark in "._")
    found = []
    for name, after in evaluation.items() if evaluation is not None else ():
        if name.startswith(sets) and after.value is not None:
            before = _value(start, name)
            change = NOT_GIVEN if before is None else float(after) - float(before)
            told = {"before": NOT_GIVEN if before is None else _told(before), "after": _told(after)}
            found.append({"measure": name, "better": after.better, **told, "change": change})
    return found or NOT_GIVEN


def residual_risk(found: Mapping[str, Any]) -> list[str]:
    """What is known to be left, and what is not known, in sentences."""
    all_of_them, said = found["attacks_together"], []
    if all_of_them["status"] == RAN:
        tested, (high, under) = all_of_them["tested"], _highest(found)
        said.append(
            f"{all_of_them['leaking']} of {counted(tested, 'fact')} leak in at least one attack. If these were drawn "
            f"from many, up to {100 * high:.0f} % of those may (95 % interval{under})."
        )
        if untested := all_of_them["facts"] - tested:
            said.append(f"{counted(untested, 'fact')} had no value in any attack.")
        partly = (
            partly_tested(one["name"], one["n"], one["result"].get("leaking", 0), all_of_them["facts"])
            for one in found["attacks"]
            if one["status"] == RAN
        )
        said += filter(None, partly)
    else:
        said.append("No attack was run.")
    said += [
        f"The earlier request {one['request']} came back: {one['leaking']} of its {counted(one['rows'], 'row')} leak."
        for one in found["earlier_requests"]
        if one["status"] == CAME_BACK
    ]
    missing = [name for name, status in found["classes"].items() if status != RAN]
    if missing:
        said.append(f"Classes of attacks that were not tried: {', '.join(missing)}.")
    return said


def _highest(found: Mapping[str, Any]) -> tuple[float, str]:
    """The upper end of the share that may leak, and of which attack it is.

    A fact that the attack which leaks most was not tried on counts among all as one that does not leak, so that the
    interval of that attack alone may reach higher.
    """
    every = [(found["attacks_together"]["share_interval"][1], "")]
    every += [
        (one["result"]["share_interval"][1], f", of the {one['n']} that {one['name']} was tried on")
        for one in found["attacks"]
        if one["status"] == RAN and one["result"].get("leaking")
    ]
    return max(every, key=lambda pair: pair[0])


def _further_limits(found: Mapping[str, Any]) -> list[str]:
    said = []
    if found["lineage"]["form"] == "adapter":
        said.append("The files hold an adapter: the base model without it answers as it did before.")
    if found["faults"] == NOT_GIVEN:
        said.append("The model was not evaluated: nothing says whether it still writes text.")
    elif not found["text_seen_by"]:
        said.append("No measure of the evaluation looked at what the model writes (repetition, fluency).")
    elif not any(name.endswith("fluency") for name in found["text_seen_by"]):
        said.append("Whether its answers make sense was not measured (fluency): words strung together go unnoticed.")
    untested = [one for one in found["earlier_requests"] if one["status"] in (NOT_TESTED, IN_PART)]
    told = {one["request"] for one in found["earlier_requests"]}
    said += [
        f"Rows of the earlier request {one['request']} were not all attacked again: {one['note']}." for one in untested
    ]
    before = found["lineage"]["predecessor"]
    if gone := [one for one in (before["requests"] if before else ()) if one not in told]:
        said.append(f"Rows of earlier requests whose records are not here ({', '.join(gone)}) were not attacked again.")
    return said


def verdict(found: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """The verdict under a policy, with every reason against a better one."""
    unfounded, left = list(_unfounded(found, policy)), list(_left(found, policy))
    text = NO_BASELINE if unfounded else RESIDUAL if left else ERASED
    return {"text": text, "policy": policy.name, "reasons": [*unfounded, *left]}


def _unfounded(found: Mapping[str, Any], policy: Policy) -> Sequence[str]:
    """Why there is nothing to judge by."""
    kind, known = found["reference"]["kind"], found["baseline"]["known"]
    reasons = []
    if kind == "none":
        reasons.append("no reference: nothing was compared with a model that never saw the rows")
    elif kind not in policy.references:
        reasons.append(f"the reference is {kind}; the policy asks for {' or '.join(policy.references)}")
    plain = [e["result"] for e in found["attacks"] if e["name"] == PLAIN and e["status"] == RAN]
    given = plain[0]["reference"] if plain else NOT_GIVEN
    if isinstance(given, float) and given > policy.most_known_by_reference:
        reasons.append(
            f"the reference knows the rows: it gives {number(given)} of the answers as they are asked, and the policy "
            f"allows {policy.most_known_by_reference}"
        )
    if known == NOT_GIVEN:
        reasons.append("no baseline: nothing says whether the start model knew the rows")
    elif not known:
        value = number(found["baseline"]["value"])
        reasons.append(
            f"the start model did not know the rows: probability {value}, and the policy asks for {policy.least_known}"
        )
    return reasons


def _left(found: Mapping[str, Any], policy: Policy) -> Sequence[str]:
    """What the policy asks for and was not shown."""
    ran = [entry for entry in found["attacks"] if entry["status"] == RAN]
    reasons = [
        f"the attack {name} was not run"
        for name in policy.attacks
        if not any(_is(entry["name"], name) for entry in ran)
    ]
    lax = [e["name"] for e in ran if e["threshold"] != NOT_GIVEN and e["threshold"] > policy.largest_threshold]
    if lax:
        reasons.append(f"the threshold of {', '.join(lax)} is laxer than {policy.largest_threshold}")
    all_of_them = found["attacks_together"]
    if all_of_them["status"] == RAN:
        reasons += _weaker(ran, all_of_them, policy)
        if all_of_them["share_leaking"] > policy.largest_share_leaking:
            reasons.append(f"{all_of_them['leaking']} of {counted(all_of_them['tested'], 'fact')} leak")
        if all_of_them["weights"] != SAME:
            reasons.append("the weights that were attacked could not be compared with those of the run")
        if all_of_them["tested"] < all_of_them["facts"]:
            reasons.append(f"{all_of_them['facts'] - all_of_them['tested']} of the facts had no value in any attack")
    kept, last = found["utility"]["kept_since_first"], found["utility"]["kept"]
    if kept == NOT_GIVEN:
        since = "" if last == NOT_GIVEN else " since the first request"
        reasons.append(f"nothing says what utility was kept{since}")
    elif kept < policy.least_utility:
        share = f"{100 * kept:.0f} % of {found['utility']['measure']}"
        since = f" since the first request, {100 * last:.0f} % by this one" if kept != last else ""
        reasons.append(f"{share} was kept{since}; the policy asks for {100 * policy.least_utility:.0f} %")
    if not policy.faults_allowed and found["faults"] == NOT_GIVEN:
        reasons.append("no evaluation says whether the model still writes text, and the policy allows no faults")
    elif not policy.faults_allowed:
        if not found["text_seen_by"]:
            reasons.append(
                "no measure of the evaluation looked at what the model writes, and the policy allows no faults: "
                "evaluate it with repetition, which the suite default has"
            )
        reasons += [f"the model does not count as having forgotten: {fault}" for fault in found["faults"]]
    return reasons


def _weaker(ran: Sequence[Mapping[str, Any]], together: Mapping[str, Any], policy: Policy) -> Sequence[str]:
    """Which required attacks were run with other settings than the policy's, or on too few facts."""
    own, reasons = together["settings"].get("attacks", {}), []
    for name in policy.attacks:
        attack = name.partition(".")[0]
        if (given := own.get(attack, {})) != (asked := policy.settings.get(attack, {})):
            told = ", ".join(f"{key}={value}" for key, value in given.items()) or "its defaults"
            wanted = ", ".join(f"{key}={value}" for key, value in asked.items()) or "its defaults"
            reasons.append(f"the attack {name} was run with {told}; the policy asks for {wanted}")
        tested = max((entry["n"] for entry in ran if _is(entry["name"], name)), default=None)
        if tested is not None and tested < policy.least_tested * together["facts"]:
            reasons.append(f"the attack {name} has a value for {tested} of {counted(together['facts'], 'fact')} only")
    return reasons


def _is(name: str, asked: str) -> bool:
    """Is it the attack that was asked for, or a form of it?"""
    return name == asked or name.startswith(f"{asked}.")


def _value(evaluation: Evaluation | None, name: str) -> Measure | None:
    measure = evaluation.measures.get(name) if evaluation is not None else None
    return measure if measure is not None and measure.value is not None else None


def _told(measure: Measure) -> dict[str, Any]:
    return {"value": measure.value, "interval": measure.interval, "n": measure.n}


def _probability(run: Manifest, when: str, which: str) -> float | None:
    found = run.results.get("probability", {}).get(when, {}).get(which)
    return float(found) if isinstance(found, int | float) and found == found else None


def _seconds(results: Mapping[str, Any]) -> Any:
    a_step, steps = results.get("seconds_a_step"), results.get("steps")
    return round(a_step * steps, 1) if a_step is not None and steps is not None else NOT_GIVEN


def _form(run: Manifest) -> str:
    files = run.results.get("files", {})
    if "adapter_config.json" in files:
        return "adapter"
    return "merged adapter" if run.arguments.get("adapter") or "start_adapter" in run.inputs else "whole model"


def _file(name: str) -> str:
    return name.rpartition("/")[2]
