"""The small corpus and its models, and runs to be compared, for every test in this folder."""

import json
from pathlib import Path

import pytest

import zoo
from expunge.data.corpus import load_corpus
from expunge.models.load import load_model, save_model
from expunge.training.unlearn import unlearn
from small_corpus import corpus, model, other_model, plain_corpus, tokenizer

__all__ = ["corpus", "model", "other_model", "plain_corpus", "tokenizer"]

SETTINGS = {"learning_rate": 3e-3, "epochs": 3, "batch_size": 6, "keep_checkpoints": 0, "warmup": 0}


@pytest.fixture(scope="session")
def compared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what users have: files, a start and a retain model, three runs."""
    folder = tmp_path_factory.mktemp("compare")
    for split, examples in zoo.corpus().splits.items():
        rows = [
            {
                "question": e.prompt,
                "answer": e.completion,
                "paraphrased_question": f"{e.prompt} Say it.",
                "paraphrased_answer": f"{e.completion} So it is.",
                "perturbed_answer": ["In Nowhere.", "In the town of Else."],
            }
            for e in examples
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, seed in (("start", 0), ("retain", 1)):
        save_model(zoo.tiny_model(seed=seed, brief=True), zoo.tokenizer(), folder / name)
    read = load_corpus(forget=folder / "forget.jsonl", retain=folder / "retain.jsonl")
    for name, method, more in (
        ("npo-s0", "npo", {"seed": 0}),
        ("npo-s1", "npo", {"seed": 1}),
        ("ascent", "grad_ascent", {"seed": 0, "keep_checkpoints": 1}),
    ):
        settings = {**SETTINGS, **more}
        unlearn(
            load_model(folder / "start"), zoo.tokenizer(), read, method=method, output_dir=folder / name, **settings
        )
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test measures by itself."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
