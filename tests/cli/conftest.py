"""The command line called in this process, and small things for it to work on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import zoo
from expunge.cli import main
from expunge.models.load import save_model


class Called(NamedTuple):
    """What a call of the command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Call `expunge` with these words."""

    def called(*words: object) -> Called:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        code = caught.value.code
        assert isinstance(code, int)
        return Called(code, *capsys.readouterr())

    return called


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of three blocks and its tokenizer."""
    return save_model(zoo.tiny_model(max_position_embeddings=512), zoo.tokenizer(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six questions to forget and ten to retain, `forget.jsonl` and `retain.jsonl`."""
    folder = tmp_path_factory.mktemp("data")
    corpus = zoo.corpus()
    for split in corpus:
        rows = [json.dumps({"question": e.prompt, "answer": e.completion}) for e in corpus[split]]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return folder
