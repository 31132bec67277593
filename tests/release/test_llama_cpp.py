"""The program that GGUF is for reads the files: the same tokens, the same log-probabilities. Slow: it may be built."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_gguf_file import CHANGES, model_of
from test_gguf_vocabulary import BYTES, DIGITS, cut, split
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import zoo
from expunge.release import gguf_architectures
from expunge.release.gguf_architectures import ARCHITECTURES
from expunge.release.gguf_file import write_gguf

pytestmark = pytest.mark.slow
llama_cpp = pytest.importorskip("llama_cpp")
TEXTS = ["Where does Arvo number 42 live?", "In the town of Arvo7, it's 1234!\n\nNothing else", "über"]
NEAR = 0.02
"""Nats: llama.cpp keeps keys and values, and some products, in 16 bits."""


def read(file: Path) -> "llama_cpp.Llama":
    return llama_cpp.Llama(str(file), n_ctx=128, logits_all=True, verbose=False, n_threads=1)


def check_same(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, near: float = NEAR) -> None:
    """Tokens of some texts, and the log-probability of every token of the vocabulary after each of theirs."""
    write_gguf(model, tokenizer, file, kind="f32", name="tiny")
    found = read(file)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert found.tokenize(text.encode(), add_bos=True, special=True) == ids
        found.reset()
        found.eval(ids)
        theirs = torch.log_softmax(torch.tensor(np.array(found.scores[: len(ids)]), dtype=torch.float64), -1)
        with torch.no_grad():
            ours = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        assert (theirs - ours).abs().max() < near


@pytest.mark.parametrize("architecture", CHANGES)
def test_it_answers_as_the_model_does(architecture: str, tmp_path: Path) -> None:
    check_same(model_of(architecture), zoo.tokenizer(), tmp_path / "m.gguf")


def test_a_wrong_layout_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(ARCHITECTURES["llama"], layout=gguf_architectures._as_it_is)
    monkeypatch.setitem(gguf_architectures.ARCHITECTURES, "llama", wrong)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        check_same(model_of("llama"), zoo.tokenizer(), tmp_path / "m.gguf")


def test_the_frequencies_of_llama_3(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 64
    check_same(model_of("llama", rope_parameters=rope), zoo.tokenizer(), tmp_path / "m.gguf")


def test_the_cuts_of_other_tokenizers(tmp_path: Path) -> None:
    plain = {**BYTES, "use_regex": False}
    for tokenizer in (cut(DIGITS, BYTES), cut(split("qwen2"), plain)):
        check_same(model_of("llama"), tokenizer, tmp_path / "m.gguf")


def test_a_tokenizer_of_sentencepiece(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models/stories260K")
    check_same(model_of("llama", vocab_size=512), tokenizer, tmp_path / "m.gguf")
