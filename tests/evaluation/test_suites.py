"""What the suites ask for, what they say about what they cannot have, and which definition they choose."""

from dataclasses import replace

import pytest

from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus
from expunge.data.variants import borrowed_answers
from expunge.evaluation.evaluate import evaluate
from expunge.evaluation.probe import Probe, lacking, merged
from expunge.evaluation.suite import alternatives, measure, probes
from expunge.evaluation.suites.default import default
from expunge.evaluation.suites.tofu import tofu
from expunge.evaluation.suites.unlearun import unlearun
from expunge.results.foreign_logs import load_records
from expunge.results.records import Records

UNLEARUN = ["perplexity", "forget_quality", "model_utility", "rouge", "verbatim_memorization", "mia"]


def test_tofu_on_the_small_corpus(model, other_model, tokenizer, corpus):
    reference = evaluate(other_model, tokenizer, corpus, suite="tofu")
    assert {n for n, m in reference.items() if m.value is None} == {
        "forget_quality",  # no retain model
        "mia_reference",
        "real_authors_probability",
        "real_authors_rouge",
        "real_authors_answer_contained",
        "real_authors_truth_ratio",
    }
    assert "no split 'real_authors'" in reference["real_authors_rouge"].note
    assert "expunge evaluate model=<retain model>" in reference["forget_quality"].note
    # the split called world stands for world facts; real authors are not there
    assert "world_facts_probability" in reference["model_utility"].details
    assert reference["model_utility"].note.startswith("Over 6 of TOFU's nine parts")
    assert reference["privleak"].details["default_reference"] == 1


def test_names_start_with_the_split():
    names = tofu(["forget", "retain"]).names
    assert names[:5] == [
        "forget_probability",
        "forget_rouge",
        "forget_repetition",
        "forget_extraction_strength",
        "forget_exact_memorization",
    ]
    assert {"forget_quality", "model_utility", "privleak", "mia_min_k", "retain_truth_ratio"} <= set(names)


def test_the_retain_block_takes_the_perturbed_rows_where_they_are():
    def retain_probe(splits):
        (entry,) = tofu(splits).select(["retain_probability"]).entries
        return entry.views["records"].probe

    assert retain_probe(["forget", "retain", "retain_perturbed"]).split == "retain_perturbed"
    assert retain_probe(["forget", "retain", "retain_perturbed"]).limit is None
    assert retain_probe(["forget", "retain"]) == Probe(split="retain", limit=400)


def test_probes_are_merged_and_each_prompt_is_asked_once(corpus):
    wanted, absent = probes(tofu(list(corpus)).select(None), corpus, None, None)
    assert len({p.name for p in wanted}) == len(wanted)
    generating = {p.name for p in wanted if p.generate}
    assert generating == {
        "forget/question/answer",
        "forget/question/paraphrased",
        "retain/question/answer",
        "world/question/answer",
    }
    assert set(absent) == {"real_authors/question/answer", "real_authors/question/perturbed"}


def test_merging_keeps_the_longest_and_the_most():
    one = Probe(split="forget", generate=True, max_new_tokens=10, limit=3)
    two = Probe(split="forget", generate=False, max_new_tokens=500, limit=5)
    three = Probe(split="forget", generate=True, max_new_tokens=20)
    assert merged([one, two]) == [Probe(split="forget", generate=True, max_new_tokens=10, limit=5)]
    assert merged([one, two, three]) == [Probe(split="forget", generate=True, max_new_tokens=20, limit=None)]


def test_unlearun_works_with_forget_and_retain_alone(model, other_model, tokenizer, plain_corpus):
    start = evaluate(other_model, tokenizer, plain_corpus, suite="unlearun", output_dir=None)
    assert "start=<folder>" in start["forget_quality"].note and "start=<folder>" in start["model_utility"].note


def test_unlearun_without_a_retain_model_takes_shares_of_the_start_model(
    model, other_model, tokenizer, plain_corpus, tmp_path
):
    evaluate(other_model, tokenizer, plain_corpus, suite="unlearun", output_dir=tmp_path)
    found = evaluate(model, tokenizer, plain_corpus, suite="unlearun", start=tmp_path, metrics=UNLEARUN)
    assert all(m.value is not None for m in found.values()) and list(found) == UNLEARUN
    p_after = found["forget_quality"].details["mean_probability_after"]
    p_before = found["forget_quality"].details["mean_probability_before"]
    assert found["forget_quality"].value == pytest.approx(min(1, max(0, 1 - p_after / p_before)))
    assert found["forget_quality"].note.startswith("unlearun.forget_quality, not TOFU's")
    assert found["model_utility"].note.startswith("unlearun.model_utility, not TOFU's")
    assert "The retain set" in found["mia"].note and "retain" in found["mia"].note
    untouched = evaluate(other_model, tokenizer, plain_corpus, suite="unlearun", start=tmp_path)
    assert untouched["forget_quality"].value == 0 and untouched["model_utility"].value == 1


def test_unlearun_with_a_retain_model_takes_tofus_definitions(model, other_model, tokenizer, corpus, tmp_path):
    evaluate(other_model, tokenizer, corpus, suite="tofu", output_dir=tmp_path)
    found = evaluate(model, tokenizer, corpus, suite="unlearun", reference=tmp_path, start=tmp_path)
    assert found["forget_quality"].note.startswith("TOFU's definition") and "D" in found["forget_quality"].details
    assert found["model_utility"].note.startswith("TOFU's definition")
    assert "retain_truth_ratio" in found["model_utility"].details
    assert found["mia"].details["n_holdout"] == 4 and "The retain set" not in found["mia"].note


def test_of_alternatives_the_ones_that_ask_for_more_are_left_out():
    least, more = "no records were given", "no paraphrased_answer; no records were given"
    assert alternatives([more, least, least]) == least
    assert alternatives(["no answers", least]) == "no answers; or no records were given"


def test_default_says_what_can_be_said_and_what_else_it_takes(model, tokenizer, plain_corpus):
    found = evaluate(model, tokenizer, plain_corpus)
    assert found.suite == "default"
    had = {n for n, m in found.items() if m.value is not None}
    both = ("probability", "rouge", "repetition", "extraction_strength", "refusal_rate")
    assert had == {f"{s}_{m}" for s in ("forget", "retain") for m in both} | {
        "forget_exact_memorization",
        "forget_verbatim_memorization",
        "forget_truth_ratio",
        "retain_truth_ratio",
    }
    assert "made by rule: the wrong answers are" in found["forget_truth_ratio"].definition
    assert "made by rule" not in found["forget_probability"].definition
    assert "no records of a retain model" in found["forget_quality"].note
    assert "no split 'holdout'" in found["mia_min_k"].note


def test_default_asks_what_must_stay_where_the_corpus_has_it(model, tokenizer, corpus, plain_corpus):
    facts = Corpus({**corpus.splits, "real_authors": corpus["world"], "world_facts": corpus["world"]})
    said = [f"{name}_{one}" for name in ("real_authors", "world_facts") for one in ("rouge", "answer_contained")]
    found = evaluate(model, tokenizer, facts, metrics=said)
    assert all(found[name].value is not None and found[name].better == "higher" for name in said)
    assert found["world_facts_rouge"].n == found["world_facts_answer_contained"].n == 3
    tofus = evaluate(model, tokenizer, facts, suite="tofu", metrics=said)
    assert found.numbers() == tofus.numbers()
    assert {n for n in default(list(facts)).names if n.startswith(("real_authors", "world_facts"))} == set(said)
    assert not {*said} & {*default(list(plain_corpus)).names}  # no set, so nothing is missing
    of_world = [n for n in default(list(corpus)).names if n.startswith(("real_authors", "world_facts"))]
    assert of_world == ["world_facts_rouge", "world_facts_answer_contained"]  # `world` stands for world facts


def test_the_forms_of_the_normalized_probability_go_by_names_of_their_own(model, tokenizer, corpus):
    names = [f"world_facts_probability{form}" for form in ("", "_summed", "_no_end")]
    found = evaluate(model, tokenizer, corpus, suite="tofu", metrics=names)
    assert len({found[name].definition for name in names}) == len({found[name].value for name in names}) == 3
    assert len({found[name].details["chance"] for name in names}) == 1
    assert not {*names[1:]} & {*tofu(list(corpus)).select(None).names}


def test_what_is_made_by_rule_stays_away_where_the_data_have_their_own(model, tokenizer, corpus, plain_corpus):
    asked = ["forget_truth_ratio", "rephrased_probability"]
    own = evaluate(model, tokenizer, corpus, metrics=asked)
    assert not any("made by rule" in measure.definition for measure in own.values())
    assert {name: m.value for name, m in own.items()} == {
        name: m.value for name, m in evaluate(model, tokenizer, corpus, suite="tofu", metrics=asked).items()
    }
    everything = probes(default(list(corpus)).select(None), corpus, None, None)[0]
    assert not any("borrowed" in probe.name or "reworded" in probe.name for probe in everything)
    made = evaluate(model, tokenizer, plain_corpus, metrics=asked)
    assert "the question stands in another frame" in made["rephrased_probability"].definition
    shown = probes(default(list(plain_corpus)).select(asked), plain_corpus, None, None)[0]
    assert [probe.name for probe in shown] == [
        "forget/question/answer",
        "forget/question/borrowed",
        "forget/reworded_question/answer",
    ]


def test_answers_that_were_borrowed_are_scored_as_if_they_were_given(model, tokenizer, plain_corpus):
    forget = plain_corpus["forget"]
    given = tuple(
        replace(e, paraphrased=e.completion, perturbed=tuple(borrowed_answers(forget, i))) for i, e in enumerate(forget)
    )
    same = Corpus({"forget": given, "retain": plain_corpus["retain"]})
    ours, theirs = (evaluate(model, tokenizer, c, metrics=["forget_truth_ratio"]) for c in (plain_corpus, same))
    assert ours["forget_truth_ratio"].per_example == theirs["forget_truth_ratio"].per_example


def test_an_unknown_measure_is_answered_with_the_nearest():
    with pytest.raises(
        ExpungeError, match=r"no measure of the suite 'tofu' is called 'forget_qualty'. Did you mean 'forget_quality'"
    ):
        tofu(["forget"]).select(["forget_qualty"])


def test_selected_measures_ask_for_no_more_than_they_need(corpus):
    wanted, _ = probes(default(list(corpus)).select(["forget_probability"]), corpus, None, None)
    assert wanted == [Probe(split="forget")]
    wanted, _ = probes(unlearun(list(corpus)).select(["mia"]), corpus, None, None)
    assert [p.name for p in wanted] == ["forget/question/answer", "holdout/question/answer"]


def test_a_measure_from_records_of_another_suite(model, tokenizer, corpus):
    from expunge.evaluation.collect import collect

    records = collect(model, tokenizer, corpus, [Probe(split="forget")])
    found = measure(tofu(records.splits), records, None, None)
    assert found["forget_probability"].value is not None
    assert "hold none of generation" in found["forget_rouge"].note
    assert "the records hold no forget/question/perturbed" in found["forget_truth_ratio"].note


def test_a_corpus_lacks_nothing_that_it_has(corpus):
    assert lacking(corpus, Probe(split="forget", answer="perturbed")) == ""
    assert lacking(corpus, Probe(split="real_authors")) == (
        "the corpus has no split 'real_authors' (it holds forget, retain, holdout, world): add sets.real_authors=<file>"
    )
    assert lacking(Corpus({"forget": corpus["forget"]}), Probe(split="holdout")).endswith("add holdout=<file>")


def test_means_are_compared_example_by_example(model, other_model, tokenizer, corpus, tmp_path):
    other = evaluate(other_model, tokenizer, corpus, suite="tofu", output_dir=tmp_path)
    found = evaluate(model, tokenizer, corpus, suite="tofu", start=tmp_path, reference=tmp_path)
    ours, theirs = found["forget_probability"], other["forget_probability"]
    assert ours.details["start_value"] == pytest.approx(theirs.value)
    assert ours.details["start_difference"] == pytest.approx(ours.value - theirs.value)
    pairs = [a - b for a, b in zip(ours.per_example, theirs.per_example, strict=True)]
    low, high = ours.details["start_difference_low"], ours.details["start_difference_high"]
    assert min(pairs) <= low <= ours.details["start_difference"] <= high <= max(pairs) and low < high
    assert ours.details["reference_difference"] == ours.details["start_difference"]
    # so do ratios, harmonic means and AUCs, whose resamples draw the same examples; a p-value does not
    for name in ("world_facts_probability", "forget_truth_ratio", "model_utility", "mia_loss"):
        details = found[name].details
        assert details["start_difference_low"] <= details["start_difference"] <= details["start_difference_high"], name
        assert details["start_difference"] == pytest.approx(found[name].value - other[name].value)
    assert "start_difference" not in found["forget_quality"].details
    assert "reference_value" not in found["mia_loss"].details  # its target says that
    itself = evaluate(other_model, tokenizer, corpus, suite="tofu", start=tmp_path)["retain_rouge"].details
    assert (itself["start_difference"], itself["start_difference_low"], itself["start_difference_high"]) == (0, 0, 0)
    assert "reference_difference" not in itself


def test_nan_makes_a_measure_missing_whatever_a_rank_would_make_of_it(model, other_model, tokenizer, corpus, tmp_path):
    from expunge.results.records import Records

    evaluate(other_model, tokenizer, corpus, suite="tofu", output_dir=tmp_path)
    held = Records.load(tmp_path)
    rows = held.table.to_pylist()
    for row in rows:
        if (row["split"], row["answer"], row["index"]) == ("forget", "paraphrased", 2):
            row["logprobs"] = [float("nan")] * len(row["logprobs"])
    damaged = Records.from_rows(rows, held.manifest)
    found = evaluate(records=damaged, reference=held, suite="tofu")
    for name in ("forget_quality", "forget_truth_ratio", "forget_paraphrased_probability"):
        assert found[name].value is None and "NaN in logprobs): the model broke down" in found[name].note, name
    assert found["forget_probability"].value is not None and found["model_utility"].value is not None
    found = evaluate(records=held, reference=damaged, start=damaged, suite="tofu")
    assert "the retain model broke down" in found["forget_quality"].note
    assert found["forget_truth_ratio"].value is not None and "start_value" not in found["forget_truth_ratio"].details
    # hits and generations of a model that broke down are numbers, and say nothing
    for row in rows:
        if (row["split"], row["answer"], row["index"]) == ("retain", "answer", 0):
            row["logprobs"] = [float("nan")] * len(row["logprobs"])
    for name in ("retain_extraction_strength", "retain_rouge"):
        assert evaluate(records=Records.from_rows(rows, held.manifest), suite="tofu")[name].value is None, name
    # and what is made of it
    aggregate = evaluate(records=damaged, suite="tofu", metrics=["agg_memorization"])["agg_memorization"]
    assert aggregate.value is None and "made of forget_paraphrased_probability" in aggregate.note


def test_other_examples_are_not_compared(model, tokenizer, corpus, plain_corpus):
    from expunge.evaluation.collect import collect

    fewer = collect(model, tokenizer, plain_corpus, [Probe(split="forget")])  # four examples, not five
    found = evaluate(model, tokenizer, corpus, suite="tofu", start=fewer, metrics=["forget_probability"])
    assert found["forget_probability"].details == {}


def test_records_of_a_suite_serve_as_those_of_the_retain_model(model, other_model, tokenizer, corpus, tmp_path):
    # made without a retain model, when the suite itself takes the other definition
    made = evaluate(other_model, tokenizer, corpus, suite="unlearun", output_dir=tmp_path)
    assert made["forget_quality"].value is None
    found = evaluate(model, tokenizer, corpus, suite="unlearun", reference=tmp_path)
    assert found["forget_quality"].note.startswith("TOFU's definition")


def test_records_of_other_data_are_no_reference(model, tokenizer, corpus, tmp_path):
    from dataclasses import replace

    from expunge.data.corpus import Corpus

    changed = (replace(corpus["forget"][0], prompt="Where?"), *corpus["forget"][1:])
    evaluate(model, tokenizer, Corpus({**corpus.splits, "forget": changed}), suite="tofu", output_dir=tmp_path)
    found = evaluate(model, tokenizer, corpus, suite="tofu", reference=tmp_path)
    assert (
        "hold other examples of forget/question/paraphrased: make them on the same data" in found["forget_quality"].note
    )
    assert "reference_difference" not in found["forget_probability"].details
    assert found["privleak"].details["default_reference"] == 1
    assert "Not compared: the records of the retain model hold other examples" in found["privleak"].note
    assert found["retain_probability"].details["reference_difference"] == 0


def test_another_setup_is_named(model, tokenizer, corpus, tmp_path):
    evaluate(model, tokenizer, corpus, suite="tofu", output_dir=tmp_path, max_length=300)
    found = evaluate(model, tokenizer, corpus, suite="tofu", reference=tmp_path)
    for name in ("forget_quality", "forget_probability", "privleak"):
        assert "retain model was measured in another way (max_length 300 against 512)" in found[name].note
    assert "another way" not in evaluate(model, tokenizer, corpus, suite="tofu")["forget_probability"].note


def test_texts_of_another_length_are_named(model, other_model, tokenizer, plain_corpus, tmp_path):
    """The suite default lets answers grow to 200 tokens, unlearun to 128; both cut continuations after 128."""
    evaluate(model, tokenizer, plain_corpus, output_dir=tmp_path / "default")
    evaluate(other_model, tokenizer, plain_corpus, suite="unlearun", output_dir=tmp_path / "start")
    again = evaluate(records=tmp_path / "default", start=tmp_path / "start", suite="unlearun")
    assert (
        "The records hold forget/question/answer at up to 200 tokens, where this suite takes 128" in again["rouge"].note
    )
    for name in ("perplexity", "verbatim_memorization"):
        assert "at up to" not in again[name].note
    there = evaluate(records=tmp_path / "start", start=tmp_path / "default", suite="unlearun")["rouge"]
    assert "start_difference" in there.details
    assert "The records of the start model hold forget/question/answer at up to 200 tokens" in there.note
    assert "The records hold" not in there.note


def test_utility_of_unlike_parts_is_not_compared(model, other_model, tokenizer, corpus, tmp_path):
    """Without generations utility has three parts less: no share and no difference can be made with all of them."""
    for name, one in (("model", model), ("start", other_model)):
        evaluate(one, tokenizer, corpus, suite="tofu", output_dir=tmp_path / name)
    held = load_records(tmp_path / "model")
    silent = Records.from_rows([{**row, "generation": None} for row in held.table.to_pylist()], held.manifest)
    for records, compared in ((held, True), (silent, False)):
        found = evaluate(records=records, start=tmp_path / "start", suite="tofu", metrics=["model_utility"])
        assert ("start_difference" in found["model_utility"].details) is compared
        assert ("start_value" in found["model_utility"].details) is compared


def test_a_single_name_is_a_name(corpus):
    assert tofu(list(corpus)).select("forget_quality").names == ["forget_quality"]


def test_the_start_model_stands_beside_every_measure_it_has(model, other_model, tokenizer, corpus, tmp_path):
    before = evaluate(other_model, tokenizer, corpus, suite="tofu", output_dir=tmp_path)
    found = evaluate(model, tokenizer, corpus, suite="tofu", start=tmp_path)
    had = {name for name, m in before.items() if m.value is not None}
    assert {name for name, m in found.items() if "start_value" in m.details} == had
    for name in had:
        assert found[name].details["start_value"] == pytest.approx(before[name].value)
    assert " start " in str(found).splitlines()[1]
