"""A chat template that writes today's date: a run keeps the day on which it began."""

import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import expunge
import zoo
from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest
from expunge.evaluation.evaluate import evaluate
from expunge.models.load import load_model
from expunge.training.finetune import finetune
from expunge.training.unlearn import unlearn

CHAT = (
    "Today: {{ strftime_now('%d %b %Y') }}.{% for m in messages %} {{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}{% if add_generation_prompt %} assistant: {% endif %}"
)


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Any:
    def on(day: int) -> None:
        class Then(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return cls(2026, 1, day)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Then)

    return on


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    changed = copy.deepcopy(zoo.tokenizer())
    changed.chat_template = CHAT
    return changed


class Killed(Exception):
    """What a test kills a run with."""


def killed(_what: str, done: int, _total: int, _numbers: str) -> None:
    if done == 2:
        raise Killed


@pytest.mark.parametrize("verb", ["unlearn", "train"])
def test_a_run_is_resumed_on_another_day(tmp_path: Path, tokenizer: Any, day: Any, verb: str) -> None:
    def run(folder: str, **how: Any) -> Any:
        how |= {"epochs": 2, "batch_size": 3, "learning_rate": 1e-3, "output_dir": tmp_path / folder}
        if verb == "train":
            return finetune(zoo.tiny_model(), tokenizer, zoo.corpus(), **how)
        return unlearn(zoo.tiny_model(), tokenizer, zoo.corpus(), method="npo", **how)

    day(1)
    whole = run("whole")
    with pytest.raises(Killed):
        run("cut", progress=killed)
    day(2)
    resumed = run("cut", resume=True)
    assert resumed.history == whole.history
    assert Manifest.load(tmp_path / "cut").arguments["template"]["date"] == "2026-01-01"
    load_model(tmp_path / "cut")


def test_records_of_another_day_are_not_compared(tmp_path: Path, tokenizer: Any, day: Any) -> None:
    model, corpus = zoo.tiny_model(max_position_embeddings=512), zoo.corpus(2, 2)
    metrics = ["forget_probability"]

    def measured(folder: str, **how: Any) -> Any:
        return evaluate(model, tokenizer, corpus, metrics=metrics, output_dir=tmp_path / folder, **how)

    day(1)
    first = measured("a")
    day(2)
    # Records that are there, or compared with, say which day it is.
    assert float(measured("a")["forget_probability"]) == float(first["forget_probability"])
    assert measured("b", start=tmp_path / "a").about["settings"]["template"]["date"] == "2026-01-01"
    assert measured("c").about["settings"]["template"]["date"] == "2026-01-02"
    with pytest.raises(ExpungeError, match=r"start model were made with 2026-01-01, those of the model with 2026-01-0"):
        evaluate(records=tmp_path / "c", start=tmp_path / "a", metrics=metrics)
    with pytest.raises(ExpungeError, match=r"their prompts differ\. Make one of them again: .* date=2026-01-01"):
        measured("d", start=tmp_path / "a", template=expunge.Template(date="2026-01-03"))
