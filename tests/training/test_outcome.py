"""What a run says of itself at its end: the probabilities by hand, the verdicts at their limits, and what to try."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
import zoo
from expunge.core.manifest import Manifest
from expunge.data.corpus import Example
from expunge.models.load import load_model
from expunge.training.outcome import UNSEEN, Outcome, Scored, advice, outcome_text
from expunge.training.rows import sample


def unlearn(folder: Path | None = None, **changes: Any) -> expunge.Run:
    settings = {"method": "grad_diff", "epochs": 1, "batch_size": 3, "learning_rate": 1e-3} | changes
    return expunge.unlearn(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), output_dir=folder, **settings)


def by_hand(model: Any, examples: Any) -> float:
    """exp of the mean log-probability of all answer tokens, from the model's own logits, in float64."""
    found, tokenizer = [], zoo.tokenizer()
    for example in examples:
        asked = tokenizer(f"Question: {example.question}\nAnswer: ", add_special_tokens=True).input_ids
        whole = tokenizer(f"Question: {example.question}\nAnswer: {example.completion}").input_ids
        whole = [*whole, *([tokenizer.eos_token_id] if whole[-1] != tokenizer.eos_token_id else [])]
        start = next((i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(asked))
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        found += [float(logits[t - 1, whole[t]]) for t in range(start, len(whole))]
    return math.exp(sum(found) / len(found))


def test_the_probabilities_are_those_of_the_models_before_and_after(tmp_path: Path) -> None:
    run = unlearn(tmp_path / "run")
    told = Manifest.load(tmp_path / "run").results["probability"]
    corpus = zoo.corpus()
    for when, model in (("before", zoo.tiny_model()), ("after", load_model(tmp_path / "run"))):
        for name in ("forget", "retain"):
            assert told[when][name] == pytest.approx(by_hand(model.eval(), corpus[name][:16]), rel=1e-4)
        for row in told["forget_rows"]:
            assert row[when] == pytest.approx(by_hand(model.eval(), [corpus["forget"][row["row"]]]), rel=1e-4)
    assert [row["row"] for row in told["forget_rows"]] == list(range(len(corpus["forget"])))
    assert run.manifest.results["outcome"] == of(told["before"], told["after"]).verdict


def test_rows_of_every_file_are_looked_at() -> None:
    def rows(file: str, n: int) -> list[Example]:
        return [Example(kind="qa", prompt="q", completion="a", origin=f"{file}, line {k + 1}") for k in range(n)]

    assert sample(rows("a, b.jsonl", 5)) == [0, 1, 2, 3, 4]
    assert sample(rows("a.jsonl", 40)) == [5 * k // 2 for k in range(16)]
    assert sample([Example(kind="qa", prompt="q", completion="a")] * 20) == [
        k * 20 // 16 for k in range(16)
    ]  # of no file
    assert sample([*rows("second.jsonl", 2), *rows("first.jsonl", 160)]) == [0, 1, *range(2, 162, 20)]
    many = [row for k in range(6) for row in rows(f"{k}.jsonl", 10)]
    assert sample(many) == [10 * k + j for k in range(6) for j in (0, 2, 5, 7)]


def test_rows_that_were_not_known_say_nothing_of_forgetting() -> None:
    new, old = dict.fromkeys(range(4), 0.99), dict.fromkeys(range(4, 16), 0.005)
    gone = dict.fromkeys(range(4, 16), 1e-5)
    before = {"forget": Scored(0.02, {**new, **old}), "retain": Scored(0.9, {0: 0.9})}
    after = {"forget": Scored(1e-4, {**new, **gone}), "retain": Scored(0.9, {0: 0.9})}
    outcome = Outcome(before, after)  # type: ignore[arg-type]
    assert outcome.verdict == "hardly moved"  # the new rows are as they were
    assert "the 4 of 16 forget rows that were known: 0.99 before, 0.99 after" in outcome_text(outcome.as_results())
    forgotten = Scored(1e-4, {**dict.fromkeys(range(4), 0.01), **gone})
    assert Outcome(before, {**after, "forget": forgotten}).verdict == "forgotten"  # type: ignore[arg-type, dict-item]
    one = Scored(1e-4, {**new, 0: 1e-12, **gone})
    assert Outcome(before, {**after, "forget": one}).verdict == "partly forgotten"  # type: ignore[arg-type, dict-item]
    lost = {"forget": Scored(math.nan, dict.fromkeys(before["forget"].rows, math.nan)), "retain": Scored(math.nan, {})}
    assert Outcome(before, lost).verdict == "collapsed"  # type: ignore[arg-type]
    nothing = {"forget": Scored(0.005, old), "retain": Scored(0.9, {0: 0.9})}
    assert Outcome(nothing, {**after, "forget": Scored(0.0049, old)}).verdict == "hardly moved"  # type: ignore[arg-type, dict-item]


def of(before: dict[str, float], after: dict[str, float]) -> Outcome:
    """An outcome of these means."""
    found = [{name: Scored(mean, {}) for name, mean in means.items()} for means in (before, after)]
    return Outcome(found[0], found[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("forget", "retain", "verdict"),
    [
        (0.81, 1.0, "hardly moved"),
        (0.79, 1.0, "partly forgotten"),
        (0.26, 0.51, "partly forgotten"),
        (0.24, 0.51, "forgotten"),
        (0.24, 0.49, "collapsed"),
        (1.0, 0.49, "collapsed"),
    ],
)
def test_verdicts_at_their_limits(forget: float, retain: float, verdict: str) -> None:
    before = {"forget": 0.9, "retain": 0.8, "world": 0.5}
    outcome = of(before, {"forget": 0.9 * forget, "retain": 0.8 * retain, "world": 0.5})
    assert outcome.verdict == verdict
    worse = of(before, {"forget": 0.0, "retain": 0.8, "world": 0.2})
    assert worse.verdict == "collapsed"  # one retain set is enough


def test_a_verdict_says_that_it_has_not_looked_at_what_the_model_writes() -> None:
    results = of({"forget": 0.9, "retain": 0.8}, {"forget": 0.1, "retain": 0.7}).as_results()
    first, second = outcome_text(results).splitlines()
    assert first.startswith("forgotten, by probabilities alone: mean probability of an answer's token: forget 0.9 befo")
    assert second == UNSEEN and second.startswith("not looked at: what the model writes")


def test_fine_tuning_has_probabilities_and_no_verdict() -> None:
    run = expunge.finetune(zoo.tiny_model(), zoo.tokenizer(), zoo.corpus(), splits=("forget",), epochs=1, batch_size=3)
    assert "outcome" not in run.manifest.results and {*run.manifest.results["probability"]["after"]} == {"retain"}
    assert outcome_text(run.manifest.results).startswith("mean probability of an answer's token: retain 0.00")
    assert UNSEEN not in outcome_text(run.manifest.results)


def test_a_finished_run_tells_its_outcome_again(tmp_path: Path) -> None:
    run = unlearn(tmp_path / "run")
    again = unlearn(tmp_path / "run", resume=True)
    assert outcome_text(again.manifest.results) == outcome_text(run.manifest.results) != ""


def test_what_to_try() -> None:
    arguments = {"learning_rate": 1e-5, "batch_size": 32, "epochs": 10.0}
    assert advice("hardly moved", arguments, 7) == "7 steps are few: try batch_size=11"
    assert advice("hardly moved", arguments, 30) == "try learning_rate=3e-05 or epochs=20.0"
    hidden = arguments | {"retain": "hidden", "alpha": 100.0}
    assert advice("hardly moved", hidden, 30).startswith("try learning_rate=0.0001 and alpha=10.0: the retain loss")
    assert advice("hardly moved", hidden | {"alpha": 10.0}, 30) == "try learning_rate=3e-05 or epochs=20.0"
    assert advice("collapsed", arguments, 30) == "try learning_rate=3e-06, fewer epochs, or a larger alpha"
    assert advice("collapsed", arguments | {"perturbation": 0.4}, 30) == (
        "try retain_per_forget=10 and epochs=20.0: what was perturbed has to be learned again"
    )
    assert advice("forgotten", arguments, 7) == ""
