"""expunge.Unlearning: the whole way through one object, as its documentation promises."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.models.load import save_model

Rows = list[dict[str, str]]


def rows(split: str, question: str = "question", answer: str = "answer") -> Rows:
    return [{question: e.prompt, answer: e.completion} for e in zoo.corpus()[split]]


def unlearner(folder: Path, method: str = "grad_diff", **settings: object) -> expunge.Unlearning:
    model = zoo.tiny_model()
    expunge.finetune(
        model, zoo.tokenizer(), zoo.corpus(), splits=("forget", "retain"), epochs=25, batch_size=8, learning_rate=3e-3
    )
    return expunge.Unlearning(method, model, tokenizer=zoo.tokenizer(), output_dir=folder, **settings)


METRICS = ["perplexity", "forget_quality", "model_utility", "rouge", "verbatim_memorization", "mia"]


def test_the_whole_way(tmp_path: Path) -> None:
    it = unlearner(tmp_path / "out", gamma=2.0, alpha=1.0)
    it.load_data(forget_data=rows("forget"), retain_data=rows("retain"), max_length=128)
    before = it.evaluate(metrics=["forget_quality", "model_utility"])
    assert before["forget_quality"].value == 0 and before["model_utility"].value == 1  # nothing removed, all kept
    it.run(batch_size=2, learning_rate=1e-3, num_epochs=4)
    results = it.evaluate(metrics=METRICS)
    assert list(results) == METRICS
    quality, utility = results["forget_quality"], results["model_utility"]
    assert 0.05 < quality.value <= 1 and 0 <= utility.value <= 1
    assert "removed" in quality.definition + quality.note and "kept" in utility.definition + utility.note
    assert f"{quality:.3f}" == f"{quality.value:.3f}" and float(quality) == quality.value
    folder = it.save_model(tmp_path / "final")
    again = expunge.Unlearning("grad_diff", zoo.tiny_model(), tokenizer=zoo.tokenizer(), output_dir=tmp_path / "other")
    again.load_data(forget_data=rows("forget"), retain_data=rows("retain"), max_length=128)
    again.load_model(folder)
    for (name, p), q in zip(it.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert again.evaluate(metrics=["forget_quality"])["forget_quality"].value == pytest.approx(quality.value, abs=1e-6)


def test_the_shares_are_what_they_say(tmp_path: Path) -> None:
    it = unlearner(tmp_path / "out")
    it.load_data(forget_data=rows("forget"), retain_data=rows("retain"))
    probabilities = []
    for _ in range(2):
        shown = expunge.evaluate(
            it.model, zoo.tokenizer(), it.corpus, metrics=["forget_probability", "retain_probability"]
        )
        probabilities.append([shown[f"{split}_probability"].value for split in ("forget", "retain")])
        if len(probabilities) == 1:
            it.run(batch_size=3, learning_rate=1e-3, num_epochs=2)
    (forget, retain), (forget_after, retain_after) = probabilities
    results = it.evaluate(metrics=["forget_quality", "model_utility"])
    assert results["forget_quality"].value == pytest.approx(max(0, 1 - forget_after / forget), rel=1e-5)
    assert results["model_utility"].value == pytest.approx(min(1, retain_after / retain), rel=1e-5)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("grad_ascent", {}),
        ("grad_diff", {"gamma": 1.0, "alpha": 1.0, "retain_loss_type": "KL"}),
        ("dpo", {"beta": 1.0}),
        ("rmu", {"steering_coeff": 1.0, "target_layer": 1}),
        ("rmu", {"steering_coeff": 5.0, "target_layer": 1, "adaptive": True}),
        ("simnpo", {"delta": 0.0, "beta": 1.0}),
    ],
)
def test_every_promised_method(tmp_path: Path, method: str, settings: dict[str, object]) -> None:
    it = expunge.Unlearning(
        method, zoo.tiny_model(), tokenizer=zoo.tokenizer(), output_dir=tmp_path / "out", **settings
    )
    it.load_data(forget_data=rows("forget"), retain_data=rows("retain"))
    run = it.run(batch_size=3, gradient_accumulation_steps=2, learning_rate=1e-4, num_epochs=1, warmup_steps=1)
    assert len(run.history) == 1  # six rows, two micro-batches of three in one step
    assert (tmp_path / "out/model.safetensors").is_file()
    arguments = expunge.Manifest.load(tmp_path / "out").arguments
    assert arguments["batch_size"] == 6 and arguments["micro_batch_size"] == 3
    if method == "rmu":
        name = "scale" if settings.get("adaptive") else "coefficient"
        assert arguments["hyperparameters"][name] == settings["steering_coeff"] and arguments["layer"] == 1


def test_data_of_every_form(tmp_path: Path) -> None:
    asked = rows("forget", "prompt", "completion")
    (tmp_path / "f.json").write_text(json.dumps(asked))
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    forms = [str(tmp_path / "f.json"), tmp_path / "f.jsonl", asked, Dataset.from_list(asked)]
    found = []
    for form in forms:
        it = expunge.Unlearning("simnpo", zoo.tiny_model(), tokenizer=zoo.tokenizer(), output_dir=tmp_path / "o")
        it.load_data(
            forget_data=form,
            retain_data=rows("retain", "prompt", "completion"),
            question_key="prompt",
            answer_key="completion",
        )
        found.append([(e.kind, e.prompt, e.completion) for e in it.corpus["forget"]])
    assert found == [[("qa", e.prompt, e.completion) for e in zoo.corpus()["forget"]]] * 4


def test_holdout_changes_what_mia_is_measured_against(tmp_path: Path) -> None:
    it = expunge.Unlearning("npo", zoo.tiny_model(), tokenizer=zoo.tokenizer(), output_dir=tmp_path / "o")
    it.load_data(forget_data=rows("forget"), retain_data=rows("retain"))
    assert "replaces a holdout set" in it.evaluate(metrics=["mia"])["mia"].note
    it.load_data(
        forget_data=rows("forget"),
        retain_data=rows("retain"),
        holdout_data=[{"question": "q?", "answer": "Some town."}],
    )
    assert "replaces a holdout set" not in it.evaluate(metrics=["mia"])["mia"].note


def test_a_model_is_never_saved_over_another_unasked(tmp_path: Path) -> None:
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "start")
    save_model(zoo.tiny_model(), zoo.tokenizer(), tmp_path / "other")
    it = expunge.Unlearning(method="npo", model=tmp_path / "start", output_dir=tmp_path / "out")
    for how in (False, True):
        with pytest.raises(ExpungeError, match="is the folder of the start model, which is not replaced"):
            it.save_model(tmp_path / "start", overwrite=how)
    with pytest.raises(ExpungeError, match=r"other is in use.*overwrite=True"):
        it.save_model(tmp_path / "other")
    (tmp_path / "file").touch()
    with pytest.raises(ExpungeError, match="must be a folder, and is a file"):
        it.save_model(tmp_path / "file")
    assert it.save_model(tmp_path / "new") == it.save_model(tmp_path / "new") == tmp_path / "new"
    it.save_model(tmp_path / "other", overwrite=True)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"'grad_dif'.*Did you mean 'grad_diff'"):
        expunge.Unlearning("grad_dif", zoo.tiny_model(), tokenizer=zoo.tokenizer())
    with pytest.raises(ExpungeError, match="comes without its tokenizer"):
        expunge.Unlearning("npo", zoo.tiny_model())
    with pytest.raises(ExpungeError, match="retain_loss_type must be NLL, KL"):
        expunge.Unlearning("npo", zoo.tiny_model(), tokenizer=zoo.tokenizer(), retain_loss_type="L2")
    it = expunge.Unlearning("npo", zoo.tiny_model(), tokenizer=zoo.tokenizer(), output_dir=tmp_path / "o")
    with pytest.raises(ExpungeError, match="no data yet: call load_data"):
        it.run()
    it.load_data(forget_data=rows("forget"), retain_data=rows("retain"))
    with pytest.raises(ExpungeError, match="learning_rate must be between 0 and 1; got -1"):
        it.run(learning_rate=-1)
    with pytest.raises(ExpungeError, match=r"no measure|Known"):
        it.evaluate(metrics=["forgot_quality"])


def untrained(folder: Path, method: str = "grad_ascent", **settings: object) -> expunge.Unlearning:
    it = expunge.Unlearning(method, zoo.tiny_model(), tokenizer=zoo.tokenizer(), output_dir=folder, **settings)
    it.load_data(forget_data=rows("forget"), retain_data=rows("retain"))
    return it


def test_a_second_run_goes_into_a_numbered_folder(tmp_path: Path) -> None:
    first = untrained(tmp_path / "out").run(batch_size=6, num_epochs=1)
    second = untrained(tmp_path / "out")
    with pytest.warns(
        UserWarning, match=r"out is in use, so this run goes into .*out-2\. .*overwrite=True.*resume=True"
    ):
        run = second.run(batch_size=6, num_epochs=1)
    assert (first.folder, run.folder) == (tmp_path / "out", tmp_path / "out-2")
    assert second.save_model() == tmp_path / "out-2" / "final_model"
    assert (tmp_path / "out-2" / "start_records").is_dir()
    with pytest.warns(UserWarning, match="out-3"):
        assert untrained(tmp_path / "out").run(batch_size=6, num_epochs=1).folder == tmp_path / "out-3"
    assert untrained(tmp_path / "out").run(batch_size=6, num_epochs=1, resume=True).folder == tmp_path / "out-3"
    assert untrained(tmp_path / "out").run(batch_size=6, num_epochs=1, overwrite=True).folder == tmp_path / "out"
    with pytest.raises(ExpungeError, match=r"nothing to resume: .* Start without resume=True"):
        untrained(tmp_path / "new").run(batch_size=6, num_epochs=1, resume=True)


@pytest.mark.parametrize(
    ("name", "method"),
    [("ga", "grad_ascent"), ("Gradient-Ascent", "grad_ascent"), ("GD", "grad_diff"), ("KL", "kl_min")],
)
def test_other_names_of_methods(name: str, method: str) -> None:
    assert expunge.Unlearning(name, zoo.tiny_model(), tokenizer=zoo.tokenizer()).method == method


def test_perplexity_of_both_sets_and_forget_alone(tmp_path: Path) -> None:
    it = untrained(tmp_path / "out")
    both = it.evaluate(metrics=["perplexity"])
    assert list(both) == ["perplexity"]
    retain = it.evaluate(metrics="retain_perplexity")["retain_perplexity"]
    assert both["perplexity"].details["retain"] == retain.value != both["perplexity"].value
    assert it.evaluate()["retain_perplexity"].value == retain.value

    it.load_data(forget_data=rows("forget"))
    with pytest.warns(UserWarning, match=r"model_utility is not available\. Missing: .*add retain_data=<file>"):
        found = it.evaluate(metrics=METRICS)
    assert list(found) == METRICS
    assert {name for name in found if found[name].value is None} == {"model_utility", "mia"}
    assert it.evaluate()["forget_quality"].value == 0 and it.evaluate()["mia"].value is None
    with pytest.raises(ExpungeError, match="model_utility is not available"):
        it.evaluate(metrics=["model_utility"])


def test_errors_speak_of_what_was_written(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=r"^target_layer must be between 0 and 2; got 9"):
        untrained(tmp_path / "out", "rmu", target_layer=9).run(batch_size=6, num_epochs=1)
    with pytest.raises(ExpungeError, match=r"^num_epochs must be above 0 and at most"):
        untrained(tmp_path / "out").run(batch_size=6, num_epochs=0)
    it = expunge.Unlearning("grad_diff", zoo.tiny_model(), tokenizer=zoo.tokenizer(), output_dir=tmp_path / "out")
    it.load_data(forget_data=rows("forget"))
    with pytest.raises(ExpungeError, match=r"retain_data=<file>, or use retain_loss_type=none"):
        it.run(batch_size=6, num_epochs=1)
    with pytest.raises(ExpungeError, match=r"forget has no column 'question'.* is: question_key='<column>'"):
        it.load_data(forget_data=rows("forget", "asked"))
    it.load_data(
        forget_data=rows("forget", "asked"), retain_data=rows("retain"), columns={"forget": {"question": "asked"}}
    )
    assert not list(tmp_path.iterdir())
