import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_eval_result
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

import made_run
from expunge.core.manifest import Manifest
from expunge.report.card import Published, card, eval_results
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


def test_a_hub_reads_the_head(make_model: Make, manifest: Manifest) -> None:
    npo = replace(make_model("NPO"), about={"inputs": {"data.forget": "xxh3:5f3e"}})
    about = Published(form="merged", base_model="user/start", license="mit")
    data = ModelCard(card(npo, manifest, name="npo", published=about)).data
    assert (data.library_name, data.base_model, data.base_model_relation) == ("transformers", "user/start", "finetune")
    assert (data.pipeline_tag, data.license) == ("text-generation", "mit")
    assert {"machine-unlearning", "expunge"} <= set(data.tags)
    read = {result.metric_type: result for result in data.eval_results}
    assert set(read) == {name for name, one in npo.items() if one.value is not None}
    rouge = read["forget_rouge"]
    assert rouge.metric_value == npo["forget_rouge"].value and rouge.dataset_type == "forget-set"
    assert rouge.dataset_args == {"fingerprint": "xxh3:5f3e"} and rouge.metric_args["better"] == "lower"
    assert rouge.metric_args["interval_95"] == list(npo["forget_rouge"].interval or ())


def test_a_model_index_is_read_back_as_it_was(make_model: Make) -> None:
    made = eval_results(make_model("NPO"))
    name, read = model_index_to_eval_results(eval_results_to_model_index("npo", made))
    assert name == "npo" and sorted(read, key=lambda r: r.metric_type) == sorted(made, key=lambda r: r.metric_type)
    plain = metadata_eval_result(
        model_pretty_name="npo",
        task_pretty_name="Machine unlearning",
        task_id="text-generation",
        metrics_pretty_name=made[0].metric_name or "",
        metrics_id=made[0].metric_type,
        metrics_value=made[0].metric_value,
        dataset_pretty_name=made[0].dataset_name,
        dataset_id=made[0].dataset_type,
    )["model-index"][0]
    own = eval_results_to_model_index("npo", made[:1])[0]
    assert own["name"] == plain["name"] and own["results"][0]["task"] == plain["results"][0]["task"]


def test_forms_say_what_they_are(make_model: Make, manifest: Manifest) -> None:
    parity = [{"split": "forget", "rows": 4, "of": 6, "largest": 0.0123, "tolerance": 0.05}]
    about = Published(form="gguf", base_model="user/start", files={"npo.gguf": "sha256:ab"}, parity=parity)
    text = card(make_model("NPO"), manifest, published=about)
    data = ModelCard(text).data
    assert "gguf" in data.tags and data.base_model_relation == "finetune"
    assert "| npo.gguf | ab |" in text and "On 4 of 6 rows of the forget set" in text and "at most 0.0123" in text
    assert "before it was written in this form" in text
    data = ModelCard(card(None, manifest, published=Published(form="adapter", base_model="user/start"))).data
    assert (data.library_name, data.base_model_relation) == ("peft", "adapter") and data.eval_results is None
    assert not hasattr(ModelCard(card(None, manifest)).data, "base_model_relation")


def test_what_was_not_tried_is_said(manifest: Manifest) -> None:
    text = card(None, manifest, name="npo")
    assert "Nothing was measured of this model" in text and "No attack was tried" in text and "## Files" not in text


def test_attacks_and_record_are_told_without_texts(make_model: Make, manifest: Manifest) -> None:
    found = made_run.attacked({"sampling": (0.0, 0.9, 0.0, 0.0, 0.0, 0.0)})
    record = {
        "verdict": {"text": "RESIDUAL", "policy": "default", "reasons": ["1 of 6 facts <leak>"]},
        "residual_risk": ["1 of 6 facts leak."],
        "proves": "How far the model resists.",
    }
    text = card(make_model("NPO"), manifest, attacked=found, record=record)
    assert "1 of 6 facts leak in at least one of" in text and "| sampling |" in text
    assert "Verdict: **RESIDUAL**, policy default." in text and "- 1 of 6 facts &lt;leak&gt;" in text
    for fact in made_run.CORPUS["forget"]:
        assert fact.prompt not in text and fact.completion not in text


def test_a_line_break_of_the_template_stays(manifest: Manifest) -> None:
    framed = replace(manifest, arguments={"method": "npo", "template": {"qa": "Q|: {question}\nA: "}})
    assert "\n| template.qa | Q\\|: \\{question\\}<br>A: |\n" in card(None, framed)


def test_settings_lose_their_folders(make_model: Make, manifest: Manifest) -> None:
    text = card(
        make_model("NPO"), replace(manifest, arguments={"method": "npo", "mask": "/home/someone/mask.safetensors"})
    )
    assert "| mask | mask.safetensors |" in text and "someone" not in text


def test_the_rows_themselves_are_what_is_fingerprinted(make_model: Make, manifest: Manifest) -> None:
    told = replace(manifest, results={**manifest.results, "data": {"forget": {"content": "xxh3:rows", "rows": 48}}})
    assert "| forget set | xxh3:rows |" in card(make_model("NPO"), told)
