"""Alternate answers that the start model makes up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import expunge
import zoo
from expunge.models.generate import sampler
from expunge.training import generated_answers
from expunge.training.generated_answers import made_up


def test_sampling_follows_the_probabilities():
    # softmax(log 1, log 3) = (1/4, 3/4); at temperature 1/2 the odds are squared: 1/10, 9/10.
    logits = torch.log(torch.tensor([1.0, 3.0])).expand(20_000, 2)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        pick = sampler(temperature=temperature, seed=0, device=torch.device("cpu"))
        assert float(pick(logits).float().mean()) == pytest.approx(share, abs=0.01)


def test_every_question_gets_distinct_answers_that_are_not_the_true_one():
    examples = zoo.corpus()["forget"]
    found = made_up(zoo.tiny_model(), zoo.tokenizer(), examples, alternates=3)
    for before, after in zip(examples, found, strict=True):
        assert len(set(after.alternates)) == 3
        assert before.completion.strip() not in after.alternates
        assert replace(after, alternates=()) == replace(before, alternates=())
    assert found == made_up(zoo.tiny_model(), zoo.tokenizer(), examples, alternates=3)
    assert found != made_up(zoo.tiny_model(), zoo.tokenizer(), examples, alternates=3, seed=1)


def test_alternates_of_the_data_are_left_alone():
    own = tuple(replace(e, alternates=("No.",)) for e in zoo.corpus()["forget"])
    assert made_up(zoo.tiny_model(), zoo.tokenizer(), own) == own


def test_a_model_that_says_nothing_else_is_told(monkeypatch: pytest.MonkeyPatch):
    example = zoo.corpus()["forget"][0]
    answer = zoo.tokenizer()(example.completion, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(generated_answers, "continuations", lambda model, wanted, **_: dict.fromkeys(wanted, answer))
    with pytest.raises(expunge.ExpungeError, match="answers 1 of 1 questions with the true answer"):
        made_up(zoo.tiny_model(), zoo.tokenizer(), [example])


def test_altpo_keeps_them_apart_from_the_run_and_takes_them_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))

    def altpo(**more):
        return expunge.unlearn(
            zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), method="altpo", alternates=2, epochs=1, batch_size=4,
            output_dir=tmp_path / "run", **more,
        )  # fmt: skip

    run = altpo()
    (entry,) = (tmp_path / "cache/alternates").iterdir()
    kept = json.loads(entry.read_text())["alternates"]
    assert [len(texts) for texts in kept] == [2] * 6 and run.manifest.arguments["alternates"] == 2
    held = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert not any(text.encode() in held for texts in kept for text in texts if len(text) > 8)
    with monkeypatch.context() as patched:
        patched.setattr(generated_answers, "continuations", lambda *_, **__: pytest.fail("sampled again"))
        with pytest.raises(expunge.ExpungeError, match="in use"):
            altpo()  # refused before anything is sampled
        assert altpo(resume=True).manifest.results["finished"]
    for damaged in ("", "{", json.dumps({"digest": "xxh3:0", "alternates": [["x"]] * 6})):
        entry.write_text(damaged)
        assert altpo(resume=True).manifest.results["finished"]
        assert json.loads(entry.read_text())["alternates"] == kept
