"""Judging metrics, on random models: every model is made once, and numbers and drawing hold every metric."""

import json
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import load_corpus
from expunge.experiments import metrics as module
from expunge.experiments._metrics import pool as _pool
from expunge.experiments.metrics import BITS, KNOWLEDGE, metrics
from expunge.models.load import save_model
from expunge.results.attacked import Leak


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Random models in place of the embedded ones, and short training."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    corpus = load_corpus("synthetic", authors=3, facts=2, forget_authors=1, holdout_authors=1)
    folders = [
        save_model(zoo.tiny_model(seed=seed, max_position_embeddings=512), zoo.tokenizer(), tmp_path / str(seed))
        for seed in (1, 2)
    ]
    monkeypatch.setattr(module, "embedded", lambda *_, **__: (corpus, *folders))
    few = {"methods": ("grad_diff",), "rates": (1e-3,), "strengths": (2,), "attacks": ("lens",)}
    return {**few, "teaching": {"epochs": 1}, "relearning": {"epochs": 1}}


@pytest.mark.slow
def test_every_metric_is_judged_and_nothing_is_measured_twice(small, tmp_path, monkeypatch):
    told = []
    made = metrics(tmp_path / "out", **small, progress=lambda *a: told.append(a))
    assert [judgment.metric for judgment in made.judgments] == [*KNOWLEDGE, "attack_lens"]
    for judgment in made.judgments:
        assert len(judgment.knowing) == len(judgment.ignorant) == 3 and 0 <= judgment.faithfulness <= 1
        (attacked,) = judgment.attacked
        assert attacked.model == "grad_diff, rate 0.00012" and set(attacked.stability) == set(BITS)
    counts = [(done, total) for what, done, total, _ in told if what == "models measured"]
    assert counts[0] == (0, 13) and counts[-1] == (13, 13)
    stored = json.loads((tmp_path / "out/metrics.json").read_text())
    assert [one["faithfulness"] for one in stored["judgments"]] == [one.faithfulness for one in made.judgments]
    assert (tmp_path / "out/metrics.png").stat().st_size > 20000

    monkeypatch.setattr(_pool, "finetune", None)
    monkeypatch.setattr(_pool, "unlearn", None)
    monkeypatch.setattr(_pool, "drawn_out", None)
    (tmp_path / "out/metrics.json").unlink()  # as if it had been stopped
    again = metrics(tmp_path / "out", **small)
    assert again.judgments == made.judgments and (tmp_path / "out/metrics.json").exists()
    with pytest.raises(ExpungeError, match="holds this experiment with other data or settings"):
        metrics(tmp_path / "out", **{**small, "rates": (2e-3,)})


def test_the_pool_knows_what_its_name_says(small, tmp_path):
    corpus, target, retain = module.embedded()
    bench = _pool.Pool(
        corpus, (target, retain), metrics=KNOWLEDGE, attacks=(), teaching={}, relearning={}, total=1, progress=None
    )
    forget = {e.completion for e in corpus["forget"]}
    values = {kind: {e.completion for e in bench.shown(kind, 0)} for kind in (*_pool.KNOWING, *_pool.IGNORANT)}
    assert forget <= values["answers"] and forget <= values["both"]
    assert {e.paraphrased for e in corpus["forget"]} <= values["paraphrases"]
    truths = forget | {e.paraphrased for e in corpus["forget"]}
    assert all(not truths & values[kind] for kind in _pool.IGNORANT)
    assert all(values[kind] & {e.completion for e in corpus["retain"]} for kind in values)


def test_of_several_forms_the_one_that_draws_out_most_counts():
    leaks = [
        Leak(name="a.x", measure="m", facts=(0, 2), values=(0.1, 0.9)),
        Leak(name="a.y", measure="m", facts=(0, 1), values=(0.4, 0.0)),
        Leak(name="a.z", measure="m", facts=(), values=(), not_run="no reason"),
    ]
    assert _pool.worst_form(leaks) == [0.4, 0.0, 0.9]


def test_an_attack_without_a_value_is_not_judged(small, tmp_path):
    with pytest.raises(ExpungeError, match="it needs 10 questions with answers"):
        metrics(tmp_path / "out", **{**small, "attacks": ("probe",)})


def test_a_method_without_settings_is_refused(tmp_path):
    with pytest.raises(ExpungeError, match="method of the demonstration"):
        metrics(tmp_path / "out", methods=("rmu",))
    with pytest.raises(ExpungeError, match="above 0"):
        metrics(tmp_path / "out", strengths=(0.0,))
