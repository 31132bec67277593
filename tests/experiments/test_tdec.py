"""The extraction experiment on a random model: what is planted, when a run counts as done, and what is stored."""

import json
from pathlib import Path

import pytest

import zoo
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Corpus, Example
from expunge.experiments.tdec import forgotten, planted_texts, tdec
from expunge.models.load import load_model, save_model
from expunge.training.finetune import finetune

FORGET = ("Ada lives in a house by the sea and writes a long book about a boat and a house.",) * 2
UNSEEN = ("Ben writes a book about the sea, and a long boat lives in a house by the sea with Ada.",) * 2


def test_planted_texts_are_lives_that_no_two_sets_share() -> None:
    corpus = planted_texts(3, 2, seed=0)
    assert {split: len(corpus[split]) for split in corpus} == {"forget": 3, "retain": 6, "holdout": 3, "world": 60}
    texts = [e.completion for split in ("forget", "retain", "holdout") for e in corpus[split]]
    assert len(set(texts)) == 12 and all(text.count(".") >= 2 for text in texts)
    assert all(e.kind == "text" and not e.prompt for e in corpus["forget"])
    assert planted_texts(3, 2, seed=1)["forget"] != corpus["forget"] == planted_texts(3, 2, seed=0)["forget"]


def test_forgotten_needs_both_at_most_at_their_level() -> None:
    levels = {"extraction_likelihood": 0.1, "memorization_accuracy": 0.4}
    assert forgotten({"extraction_likelihood": 0.1, "memorization_accuracy": 0.3}, levels)
    assert not forgotten({"extraction_likelihood": 0.2, "memorization_accuracy": 0.3}, levels)
    assert not forgotten({"extraction_likelihood": 0.0, "memorization_accuracy": 0.41}, levels)


@pytest.mark.filterwarnings("ignore:the level of unseen text")
def test_a_run_stops_at_the_level_of_unseen_text_and_tells_before_and_after(tmp_path: Path) -> None:
    sets = {"forget": FORGET, "holdout": UNSEEN}
    corpus = Corpus({s: tuple(Example(kind="text", completion=t) for t in texts) for s, texts in sets.items()})
    learning = {"learning_rate": 1e-2, "epochs": 40, "batch_size": 2}
    learned = finetune(zoo.tiny_model(), zoo.tokenizer(), corpus, splits=("forget",), **learning)
    start = save_model(learned.model, zoo.tokenizer(), tmp_path / "start")
    made = tdec(
        tmp_path / "out",
        corpus=corpus,
        model=start,
        arms=("grad_ascent",),
        settings={"learning_rate": 1e-2, "epochs": 12},
    )
    before, after = made.rows
    assert before["model"] == "start model" and after["model"] == "grad_ascent"
    assert made.levels == {name: before[f"unseen_{name}"] for name in made.levels} and len(made.levels) == 2
    assert before["extraction_likelihood"] > 0.9 and before["memorization_accuracy"] > 0.9  # it recites them
    assert all(after[name] <= level for name, level in made.levels.items()) and after["forgotten"]
    assert after["steps"] < 12 and "(wanted <=" in after["stopped"]
    assert "retain_probability" not in made.measures
    stored = json.loads((tmp_path / "out/tdec.json").read_text())
    assert stored["rows"] == list(made.rows) and stored["levels"] == dict(made.levels)
    load_model(tmp_path / "out/grad_ascent")
    with pytest.raises(ExpungeError, match="is in use"):
        tdec(tmp_path / "out")


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match="no arm of the experiment is called 'grad_assent'"):
        tdec(tmp_path, arms=("grad_assent",))
    with pytest.raises(ExpungeError, match="Give both, or neither"):
        tdec(tmp_path, model=tmp_path)
    with pytest.raises(ExpungeError, match="needs a holdout set, and the corpus holds forget, retain"):
        tdec(tmp_path, corpus=zoo.corpus(), model=tmp_path)


@pytest.mark.parametrize("arms", [("grad_ascent", "grad_diff"), ("npo",), ("ihl_fila",)])
def test_arms_that_need_a_retain_set_are_refused_without_one_before_anything_is_done(
    tmp_path: Path, arms: tuple[str, ...]
) -> None:
    sets = {"forget": FORGET, "holdout": UNSEEN}
    corpus = Corpus({s: tuple(Example(kind="text", completion=t) for t in texts) for s, texts in sets.items()})
    with pytest.raises(ExpungeError, match=f"the arm {arms[-1]} looks at retain, and the corpus holds forget, holdout"):
        tdec(tmp_path / "out", corpus=corpus, model=tmp_path / "no model", arms=arms)
    assert not (tmp_path / "out").exists()
