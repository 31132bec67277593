"""Arguments of the wrong type from Python: an ExpungeError that says what was asked for and what came.

Type checkers hold the types while tests run; here they are off, as they are for whoever uses the package.
"""

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch

import expunge
import zoo

BATCH = {"input_ids": torch.tensor([[1, 5, 6]]), "labels": torch.tensor([[-100, 5, 6]])}


@pytest.fixture(autouse=True)
def _as_users_have_it() -> Any:
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def unlearn(**changes: Any) -> Any:
    """A sound call with changes."""
    sound = {
        "model": zoo.tiny_model(),
        "tokenizer": zoo.tokenizer(),
        "corpus": zoo.corpus(),
        "method": "npo",
        "epochs": 1,
    }
    given = sound | changes
    return expunge.unlearn(given.pop("model"), given.pop("tokenizer"), given.pop("corpus"), **given)


def evaluated(**changes: Any) -> Any:
    return expunge.evaluate(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), **changes)


def localized(**changes: Any) -> Any:
    return expunge.localize(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), **changes)


def attacked(**changes: Any) -> Any:
    return expunge.attack(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "path"}, "model must be a loaded model; got 'path'"),
        ({"model": None}, "model must be a loaded model; got None"),
        ({"tokenizer": None}, "tokenizer must be a loaded tokenizer; got None"),
        ({"tokenizer": "gpt2"}, "tokenizer must be a loaded tokenizer; got 'gpt2'"),
        ({"corpus": "forget.jsonl"}, "corpus must be a loaded corpus; got 'forget.jsonl'"),
        ({"corpus": None}, "corpus must be a loaded corpus; got NoneType"),
        ({"learning_rate": "fast"}, "learning_rate must be a number or null; got 'fast'"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number; got inf"),
        ({"learning_rate": True}, "learning_rate must be a number or null; got True"),
        ({"epochs": float("inf")}, "epochs must be a finite number; got inf"),
        ({"epochs": float("nan")}, "epochs must be above 0 and at most 100000; got nan"),
        ({"batch_size": 2.5}, "batch_size must be a whole number or null; got 2.5"),
        ({"batch_size": "2"}, "batch_size must be a whole number or null; got '2'"),
        ({"seed": 10**30}, "seed must be between 0 and 4294967295"),
        ({"seed": None}, "seed must be a whole number; got None"),
        ({"gradient_checkpointing": "no"}, "gradient_checkpointing must be true or false; got 'no'"),
        ({"report_to": 5}, "report_to must be a list of"),
        ({"method": 5}, "method must be text; got 5"),
        ({"adapter": 5}, "adapter must be text or null; got 5"),
        ({"retain_sets": ["retain"]}, "retain_sets must be a mapping to number or null"),
        ({"beta": float("inf")}, "npo: beta must be a finite number; got inf"),
        ({"beta": "big"}, "npo: beta must be a number; got 'big'"),
        ({"gamma": "big"}, "gamma must be a number or null; got 'big'"),
    ],
)
def test_unlearn(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(expunge.ExpungeError) as caught:
        unlearn(**changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: expunge.report([5], "r.html"), "a report takes evaluations and paths of them; got 5"),
        (lambda: expunge.report(5, "r.html"), "a report takes evaluations and paths of them; got 5"),
        (lambda: expunge.report([], 5), "path must be a path; got 5"),
        (lambda: unlearn(output_dir=5), "output_dir must be a path; got 5"),
        (lambda: expunge.evaluate(records="r", output_dir=5), "output_dir must be a path; got 5"),
        (lambda: expunge.compare(5), "a run must be a path; got 5"),
        (lambda: expunge.Mask.load(5), "path must be a path; got 5"),
        (lambda: expunge.Records.load(5), "folder must be a path; got 5"),
        (lambda: expunge.load_attacked(None), "path must be a path; got None"),
        (lambda: expunge.attack(5, zoo.tokenizer(), zoo.corpus()), "model must be a loaded model; got int"),
        (lambda: expunge.make_patch(zoo.tiny_model(), "npo"), "result must be a loaded model; got 'npo'"),
        (lambda: unlearn(mask=5), "mask must be a loaded mask, its file, or None; got 5"),
        (lambda: unlearn(template="nope"), "template must be an expunge.Template or None; got 'nope'"),
        (lambda: expunge.load_model("m", trust_remote_code="false"), "trust_remote_code must be True or False"),
        (lambda: expunge.load_tokenizer("m", trust_remote_code=[1]), "trust_remote_code must be True or False"),
        (
            lambda: evaluated(metrics="rouge"),
            "metrics must be a list of names, such as ['first', 'second']; got",
        ),
        (lambda: evaluated(metrics=5), "metrics must be a list of names"),
        (lambda: evaluated(judges="nope"), "judges must be a mapping of judges to folders or hub ids; got 'nope'"),
        (lambda: evaluated(template="x"), "template must be an expunge.Template or None; got 'x'"),
        (lambda: evaluated(label=5), "label must be text; got 5"),
        (lambda: localized(attribution=5), "attribution must be a name; got 5"),
        (lambda: localized(attribution="gradient", modules=5), "modules must be a list of names"),
        (lambda: localized(attribution="gradient", seed="nope"), "seed must be a whole number; got 'nope'"),
        (lambda: attacked(seed="x"), "seed must be a whole number; got 'x'"),
        (lambda: evaluated(batch_size="x"), "batch_size must be"),
        (
            lambda: attacked(control="runs/retain"),
            "control must be a loaded model, an earlier result of attack, 'nothing', or None",
        ),
        (
            lambda: attacked(control=5),
            "control must be a loaded model, an earlier result of attack, 'nothing', or None; got 5",
        ),
        (lambda: attacked(attacks=5), "attacks must be a list of names"),
        (lambda: attacked(settings=5), "settings must be a mapping of attacks to their settings; got 5"),
        (lambda: expunge.compare(["r"], corpus=[]), "corpus must be a loaded corpus; got list"),
        (lambda: expunge.Corpus([1]), "a corpus is made of a mapping of split names to examples; got list"),
        (lambda: expunge.report([], "r.html"), "a report needs at least one evaluation"),
        (lambda: expunge.load_model(5), "a model is loaded from a folder or a hub id; got int"),
        (
            lambda: expunge.load_model(zoo.tiny_model()),
            "a model is loaded from a folder or a hub id; got LlamaForCausalLM",
        ),
        (lambda: expunge.load_tokenizer(None), "a tokenizer is loaded from a folder or a hub id; got NoneType"),
        (lambda: expunge.load_records(5), "records are read from a path; got int"),
        (lambda: expunge.load_corpus(5), "data source: a name is text, such as 'files'; got 5"),
        (lambda: expunge.load_corpus("files", forget=5), "forget must be a path"),
        (lambda: expunge.evaluate("m", zoo.tokenizer(), zoo.corpus()), "model must be a loaded model; got 'm'"),
        (lambda: expunge.evaluate(zoo.tiny_model(), 5, zoo.corpus()), "tokenizer must be a loaded tokenizer; got int"),
        (lambda: expunge.evaluate(zoo.tiny_model(), zoo.tokenizer(), "f"), "corpus must be a loaded corpus; got 'f'"),
        (
            lambda: expunge.evaluate(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), suite=5),
            "suite: a name is text, such as 'default'; got 5",
        ),
        (lambda: expunge.collect("m", zoo.tokenizer(), zoo.corpus(), []), "model must be a loaded model; got 'm'"),
        (lambda: expunge.finetune("m", zoo.tokenizer(), zoo.corpus()), "model must be a loaded model; got 'm'"),
        (
            lambda: expunge.finetune(zoo.tiny_model(), None, zoo.corpus()),
            "tokenizer must be a loaded tokenizer; got None",
        ),
        (
            lambda: expunge.localize("m", zoo.tokenizer(), zoo.corpus(), attribution="gradient"),
            "model must be a loaded model; got 'm'",
        ),
        (lambda: expunge.compute_loss("m", forget=BATCH), "model must be a loaded model; got 'm'"),
        (lambda: expunge.compute_loss(zoo.tiny_model(), forget=5), "the forget batch must be a dictionary of tensors"),
        (
            lambda: expunge.compute_loss(zoo.tiny_model(), forget=BATCH, method="npo", reference="m"),
            "reference must be a loaded model; got 'm'",
        ),
        (lambda: expunge.Unlearning(method=5, model=zoo.tiny_model(), tokenizer=zoo.tokenizer()), "a name is text"),
        (
            lambda: expunge.Unlearning(method="npo", model=5, tokenizer=zoo.tokenizer()),
            "model must be a loaded model; got int",
        ),
    ],
)
def test_other_stages(call: Callable[[], Any], said: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(expunge.ExpungeError) as caught:
        call()
    assert said in str(caught.value)
    assert not [*tmp_path.iterdir()]
