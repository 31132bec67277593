"""Finished runs with weights, an adapter run, and a hub that stands in for the real one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

import stand_in_hub
import zoo
from expunge.data.corpus import Corpus, load_corpus
from expunge.models.load import load_model, load_tokenizer, save_model
from expunge.training.unlearn import unlearn

TRAINING = {"method": "npo", "epochs": 1, "batch_size": 3, "learning_rate": 1e-3}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a start model, data files and runs: `npo`, whole weights; `lora`, an adapter alone."""
    folder = tmp_path_factory.mktemp("release")
    save_model(zoo.tiny_model(max_position_embeddings=512), zoo.tokenizer(), folder / "start")
    for split, examples in zoo.corpus().splits.items():
        rows = [json.dumps({"question": e.prompt, "answer": e.completion}) for e in examples]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    corpus = read(folder)
    for name, more in (("npo", {}), ("lora", {"adapter": "lora", "rank": 2, "save": "adapter"})):
        model, tokenizer = load_model(folder / "start"), load_tokenizer(folder / "start")
        unlearn(model, tokenizer, corpus, output_dir=folder / "runs" / name, **TRAINING, **more)
    return folder


@pytest.fixture(scope="session")
def corpus(place: Path) -> Corpus:
    """The sets that the runs were made on."""
    return read(place)


def read(folder: Path) -> Corpus:
    return load_corpus("files", forget=str(folder / "forget.jsonl"), retain=str(folder / "retain.jsonl"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in_hub.Hub]:
    """A hub on this machine, which the client asks instead of the real one, with a token that may write."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol needs a storage service of its own
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with stand_in_hub.hub() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", stand_in_hub.TOKEN)
        yield found
