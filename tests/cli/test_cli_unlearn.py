"""`expunge unlearn`: what reaches the stage, what a dry run shows, and which mistakes are told."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import zoo
from expunge.core.manifest import Manifest
from expunge.data.template import Template
from expunge.evaluation.metrics.probability import probability
from expunge.evaluation.probe import Probe
from expunge.evaluation.suite import Entry, Suite
from expunge.evaluation.views import View
from expunge.models.fingerprint import model_fingerprint
from expunge.models.load import load_model, save_model
from made_masks import made_mask

Stage = dict[str, Any]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """What the stage was called with; it does nothing."""
    seen: Stage = {}

    def unlearn(model: Any, tokenizer: Any, corpus: Any, **settings: Any) -> Any:
        seen.update(settings, corpus=corpus, model=model)
        history = [{"forget_loss": 2.0, "retain_loss": 1.0, "forget_probability": 0.25}]
        return SimpleNamespace(history=history, manifest=SimpleNamespace(results={"steps": 7}), folder="runs/x")

    monkeypatch.setattr("expunge.training.unlearn.unlearn", unlearn)
    return seen


@pytest.fixture
def words(model_folder: Path, data: Path, tmp_path: Path) -> tuple[str, ...]:
    """The least that the verb needs."""
    return (
        "unlearn",
        f"model={model_folder}",
        f"forget={data}/forget.jsonl",
        f"retain={data}/retain.jsonl",
        f"output={tmp_path}/run",
    )


def test_settings_reach_the_stage(
    call: Callable[..., Any], words: tuple[str, ...], stage: Stage, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-3\nepochs: 4\nretain_loss: kl\ntemplate: plain\n")
    code, out, err = call(
        *words, "--config", file, "--epochs", "2", "gamma=2", "beta=0.5", "--overwrite", "max_length=64"
    )
    assert (code, err) == (0, "")
    assert stage["method"] == "npo" and stage["retain_loss"] == "kl"
    assert (stage["learning_rate"], stage["epochs"], stage["gamma"], stage["alpha"]) == (1e-3, 2.0, 2.0, None)
    assert stage["beta"] == 0.5 and "direction" not in stage  # what was not given is left to the method
    assert stage["template"] == Template(name="plain") and stage["max_length"] == 64
    assert stage["output_dir"] == f"{tmp_path}/run"
    assert (stage["overwrite"], stage["resume"]) == (True, False)
    assert {s: len(stage["corpus"][s]) for s in stage["corpus"]} == {"forget": 6, "retain": 10}
    assert out.splitlines()[0] == "unlearned with npo: 7 steps"


def test_source_settings_go_to_the_source_and_not_to_the_method(
    call: Callable[..., Any], stage: Stage, model_folder: Path, tmp_path: Path
) -> None:
    words = ("source=synthetic", "authors=3", "forget_authors=1", "facts=2", "seed=5")
    code, _, err = call("unlearn", f"model={model_folder}", f"output={tmp_path}/run", *words)
    assert (code, err) == (0, "")
    assert len(stage["corpus"]["forget"]) == 2 and len(stage["corpus"]["retain"]) == 4
    assert stage["seed"] == 5 and "authors" not in stage


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rate=-1", "learning_rate must be between 0 and 1; got -1.0."),
        ("gamma=-1", "gamma must be at least 0; got -1.0."),
        ("method=nop", "no unlearning method is called 'nop'. Did you mean 'npo'?"),
        ("retain_loss=nil", "no retain loss is called 'nil'. Did you mean 'nll'?"),
        ("bta=0.1", "no setting is called 'bta' (from command line). Did you mean 'beta'?"),
        ("beta=big", "beta must be a number; got 'big' (from command line)."),
        ("lr=1e-4", "no setting is called 'lr' (from command line). Did you mean 'learning_rate'?"),
        ("coefficient=1", "no setting is called 'coefficient' (from command line)."),  # of rmu, not of npo
        ("source=tofoo", "no data source is called 'tofoo'. Did you mean 'tofu'?"),
        ("columns.question=q", "columns.question=q: no such column. Did you mean columns.question=question?"),
        ("forget=nowhere.jsonl", "nowhere.jsonl"),
        ("model=./nowhere", "no model folder at './nowhere'"),
        ("tokenizer=./nowhere", "no model folder at './nowhere'"),
        ("--config=nowhere.yaml", "no configuration file at 'nowhere.yaml'."),
        ("--resume", "nothing to resume"),
    ],
)
def test_mistakes(call: Callable[..., Any], words: tuple[str, ...], stage: Stage, word: str, message: str) -> None:
    code, out, err = call(*words, word)
    assert code == 2 and out == "" and "error: " in err and "Traceback" not in err
    assert message in err
    assert not stage


def test_an_output_folder_in_use_is_refused_before_anything_is_loaded(
    call: Callable[..., Any], words: tuple[str, ...], stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/file").touch()
    code, _, err = call(*words, "model=./nowhere")
    assert code == 2 and f"error: the output folder {tmp_path}/run is in use." in err and "--overwrite" in err


def test_a_tokenizer_that_does_not_fit(
    call: Callable[..., Any], words: tuple[str, ...], stage: Stage, shared_data: Path
) -> None:
    code, _, err = call(*words, f"tokenizer={shared_data}/models/tofu7m/start")
    assert code == 2 and "tokenizer and model do not fit" in err


class TestDryRun:
    def test_nothing_is_loaded_or_written(
        self, call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: Any, **__: Any) -> None:
            raise AssertionError("weights were loaded")

        monkeypatch.setattr("expunge.models.load.load_model", never)
        code, out, _ = call(*words, "--dry-run")
        assert code == 0 and "No problem found" in out
        assert list(tmp_path.iterdir()) == []

    def test_settings_are_shown_with_their_origins(
        self, call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path
    ) -> None:
        file = tmp_path / "run.yaml"
        file.write_text("\nepochs: 4\ncolumns:\n  question: question\n")
        out = call(*words, "--config", file, "batch_size=3", "--dry-run").out
        rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
        assert rows["epochs"] == f"4.0 {file}, line 2"
        assert rows["columns"] == f"{{question: question}} {file}, line 4"
        assert rows["batch_size"] == "3 command line"
        assert rows["seed"] == "0 default"
        assert rows["beta"] == "0.1 default of npo"
        assert rows["learning_rate"] == "0.0003 default of npo"
        assert rows["retain_loss"] == "nll default of npo"
        assert rows["gamma"] == "1.0 default of npo"
        assert rows["micro_batch_size"] == "3 (the rows of a step on each device) default"

    def test_the_layer_of_a_hidden_state_method_is_shown(
        self, call: Callable[..., Any], words: tuple[str, ...]
    ) -> None:
        out = call(*words, "method=rmu", "--dry-run").out
        assert any(
            line.split() == ["layer", "1", "default", "of", "rmu"] for line in out.splitlines()
        )  # min(7, 3 // 3)

    def test_rows_tokens_and_steps(self, call: Callable[..., Any], words: tuple[str, ...]) -> None:
        out = call(*words, "batch_size=4", "micro_batch_size=2", "epochs=3", "--dry-run").out
        corpus, tokenizer = zoo.corpus(), zoo.tokenizer()

        def length(example: Any) -> int:  # beginning token, text, end token
            text = f"Question: {example.prompt}\nAnswer: {example.completion}"
            return len(tokenizer(text)["input_ids"]) + 1

        tokens = sum(map(length, corpus["forget"]))
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
        assert rows["forget"][:2] == ["6", str(tokens)]
        assert rows["forget"][3] == str(max(map(length, corpus["forget"])))
        # 3 epochs of 6 rows are 18 rows, in steps of 4 that is 5; each of 2 micro-batches of 2.
        assert "3 epochs of 6 rows in steps of 4: 5 steps, 2 rows at once, 2 times a step" in out

    def test_a_decoded_example_shows_what_is_supervised(self, call: Callable[..., Any], words: tuple[str, ...]) -> None:
        out = call(*words, "--dry-run").out
        first = zoo.corpus()["forget"][0]
        text = out[out.index("First forget row") :].split("\n", 1)[1].split("\n\n")[0]
        supervised = "".join(part.partition("»")[0] for part in text.split("«")[1:])
        prompt = "".join(part.rpartition("»")[2] for part in text.split("«"))
        assert supervised.strip().startswith(first.completion) and first.completion not in prompt
        assert prompt.startswith(f"<bos>Question: {first.prompt}\\n") and "Question" not in supervised

    def test_all_that_is_missing_is_said_at_once(
        self, call: Callable[..., Any], words: tuple[str, ...], tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/file").touch()
        code, out, _ = call(*words, "model=./nowhere", "forget=nowhere.jsonl", "--dry-run")
        assert code == 1
        missing = out[out.index("\nProblems\n") :]
        assert "is in use" in missing and "no model folder at './nowhere'" in missing and "nowhere.jsonl" in missing
        assert "No problem found" not in out

    @pytest.mark.parametrize(
        ("words_more", "message"),
        [
            (("method=rmu", "layer=99"), "layer must be between 0 and 2; got 99."),
            (("beta=-1",), "npo: beta must be above 0; got -1.0."),
            (("method=pdu",), "pdu holds the retain loss below eps"),
            (("surgery=gru", "retain_loss=none"), "surgery=gru needs a retain loss"),
            (("method=rmu", "retain_loss=kl", "retain_direction=up"), "kl: direction must be 'forward'"),
        ],
    )
    def test_what_the_run_would_refuse(
        self, call: Callable[..., Any], words: tuple[str, ...], words_more: tuple[str, ...], message: str
    ) -> None:
        code, out, _ = call(*words, *words_more, "--dry-run")
        assert code == 1 and message in out and "No problem found" not in out

    def test_the_warm_up_of_a_short_run_is_shown(self, call: Callable[..., Any], words: tuple[str, ...]) -> None:
        for epochs, warmup in (("0.5", "0.05"), ("1", "0.1"), ("3", "1.0")):
            lines = call(*words, f"epochs={epochs}", "--dry-run").out.splitlines()
            assert ["warmup", warmup, "default", "of", "npo"] in [line.split() for line in lines]

    def test_a_set_that_the_retain_loss_needs(
        self, call: Callable[..., Any], model_folder: Path, data: Path, tmp_path: Path
    ) -> None:
        words = (
            "unlearn",
            f"model={model_folder}",
            f"forget={data}/forget.jsonl",
            f"output={tmp_path}/run",
            "--dry-run",
        )
        code, out, _ = call(*words)
        assert code == 1 and "this needs the set 'retain'" in out
        assert call(*words, "retain_loss=none").code == 0

    def test_alternates_are_shown_where_they_are_trained_on(
        self, call: Callable[..., Any], words: tuple[str, ...]
    ) -> None:
        assert "First alternate row" in call(*words, "method=dpo", "--dry-run").out
        assert "First alternate row" not in call(*words, "--dry-run").out


def brief(splits: Any) -> Suite:
    """A suite of our own that generates nothing, which would take its time."""
    probe = Probe(split="forget")
    return Suite("brief", (Entry(name="forget_probability", metric=probability, views={"records": View(probe)}),))


def test_train_unlearn_evaluate_report_for_real(
    call: Callable[..., Any], words: tuple[str, ...], model_folder: Path, data: Path, tmp_path: Path
) -> None:
    """The whole way on a random model; numbers mean nothing, files and messages do."""
    run = tmp_path / "run"
    code, out, err = call(*words, "epochs=2", "batch_size=3", "--learning-rate", "1e-3")
    assert code == 0 and out.startswith("unlearned with npo: 4 steps") and f"expunge evaluate model={run}" in out
    assert err.splitlines()[-1].startswith("npo  4/4  forget loss")
    assert Manifest.load(run).arguments["epochs"] == 2.0
    assert "in use" in call(*words).err
    again = call(*words, "epochs=2", "batch_size=3", "--learning-rate", "1e-3", "--resume")
    assert again.code == 0  # finished: nothing is done again

    sets = (f"forget={data}/forget.jsonl", f"retain={data}/retain.jsonl")
    trained = call(
        "train", f"model={model_folder}", f"data={data}/retain.jsonl", f"output={tmp_path}/retain", "epochs=1"
    )
    assert trained.code == 0 and "trained: 10 steps\n" in trained.out and "answer's token: retain 0.00" in trained.out
    how = (f"suite={__name__}:brief", f"reference={tmp_path}/retain", "label=npo on twins")
    measured = call("evaluate", f"model={run}", *sets, *how)
    assert measured.code == 0 and f"making them in {tmp_path}/retain-records" in measured.out
    assert "npo on twins, suite brief" in measured.out and f"records and results: {run}-records" in measured.out
    assert (tmp_path / "run-records/evaluation.json").is_file()

    (told,) = [line for line in measured.out.splitlines() if line.startswith("next: expunge ")]
    command = shlex.split(told.removeprefix("next: expunge "))
    assert command == ["report", f"{run}-records", f"retain={tmp_path}/retain-records"]
    assert call(*command, f"output={tmp_path}/told.html").code == 0

    page = tmp_path / "page.html"
    reported = call("report", run, tmp_path / "retain", "--output", page, "retain=retain")
    assert reported.code == 0 and "npo on twins" in reported.out and page.is_file()
    assert "npo on twins" in page.read_text()
    assert call("report", run, f"output={page}").code == 2


def test_a_mask_of_another_model_is_told(
    call: Callable[..., Any], words: tuple[str, ...], stage: Stage, model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    for number, (made_on, told) in enumerate([(model_fingerprint(model), False), ("xxh3:0", True)]):
        manifest = Manifest(stage="localize", arguments={}, inputs={"model": made_on})
        mask = replace(made_mask(model, "value_vector"), manifest=manifest).save(tmp_path / f"{number}.safetensors")
        out = call(*words, f"mask={mask}").out
        assert ("was made from another model" in out) is told


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_16_bits_is_trained_in_float32_and_saved_as_it_was(
    call: Any, data: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    save_model(zoo.tiny_model().to(dtype), zoo.tokenizer(), tmp_path / "model")
    words = (
        "unlearn", f"model={tmp_path / 'model'}", f"forget={data / 'forget.jsonl'}", f"retain={data / 'retain.jsonl'}",
        "epochs=1", "batch_size=6", f"output={tmp_path / 'run'}",
    )  # fmt: skip
    name = str(dtype).removeprefix("torch.")
    assert (
        f"weights of type {name} are trained in float32, and the result is saved in {name}"
        in call(*words, "--dry-run").out
    )
    assert call(*words).code == 0
    assert load_model(tmp_path / "run").dtype == dtype
