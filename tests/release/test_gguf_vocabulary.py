"""Tokenizers as GGUF has them: byte-level ones by merges, those of SentencePiece by scores, others refused."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import zoo
from expunge.core.checks import ExpungeError
from expunge.release.gguf_file import write_gguf
from expunge.release.gguf_vocabulary import BYTE, CONTROL, CUTS, NORMAL, UNUSED, vocabulary
from expunge.release.parity import read_tokenizer

pytest.importorskip("gguf")
DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def changed(change: Callable[[dict[str, Any]], None], **names: Any) -> PreTrainedTokenizerBase:
    """The small tokenizer with something in its file changed."""
    content = json.loads(zoo.tokenizer().backend_tokenizer.to_str())
    change(content)
    made = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **{"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", **names}
    )


def cut(*steps: dict[str, Any]) -> PreTrainedTokenizerBase:
    sequence = {"type": "Sequence", "pretokenizers": list(steps)}
    return changed(lambda content: content.update(pre_tokenizer=sequence))


def split(name: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": CUTS[name]}, "behavior": "Isolated", "invert": False}


def test_every_id_has_its_token_and_kind() -> None:
    tokenizer = zoo.tokenizer()
    found = vocabulary(tokenizer, len(tokenizer) + 2)
    own = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert list(found.tokens) == [*own, f"[PAD{len(own)}]", f"[PAD{len(own) + 1}]"]
    assert found.kinds[:4] == (CONTROL, CONTROL, CONTROL, NORMAL) and found.kinds[-2:] == (UNUSED, UNUSED)
    assert found.special == {"bos": 1, "eos": 2, "pad": 0}
    assert (found.model, found.pre, found.add_bos, found.add_eos) == ("gpt2", "gpt-2", True, False)
    first = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"][0]
    assert found.merges[0] == " ".join(first)


def test_the_names_of_cuts() -> None:
    plain = {**BYTES, "use_regex": False}
    assert vocabulary(cut(BYTES), 320).pre == "gpt-2"
    assert vocabulary(cut(DIGITS, BYTES), 320).pre == "smollm"
    assert vocabulary(cut(split("qwen2"), plain), 320).pre == "qwen2"
    with pytest.raises(ExpungeError, match=r"ignore_merges is False, which does not go with cuts of llama-bpe"):
        vocabulary(cut(split("llama-bpe"), plain), 320)


def test_tokens_of_one_kind_of_tokenizer_are_those_of_the_file(tmp_path: Path) -> None:
    texts = ["Where does Arvo number 42 live?", "In  the town\n\nof Arvo7, it's 1234!", "über ☃", "<eos>a<bos>"]
    plain = {**BYTES, "use_regex": False}
    model = zoo.tiny_model("llama")
    for tokenizer in (zoo.tokenizer(), cut(DIGITS, BYTES), cut(split("qwen2"), plain)):
        write_gguf(model, tokenizer, tmp_path / "m.gguf", kind="f32", name="tiny")
        read = read_tokenizer(tmp_path / "m.gguf")
        assert [read(text)["input_ids"] for text in texts] == [tokenizer(text)["input_ids"] for text in texts]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda c: c.update(pre_tokenizer={"type": "Whitespace"}),
            "neither byte-level nor in SentencePiece's form|byte_fallback",
        ),
        (lambda c: c.update(pre_tokenizer={**BYTES, "add_prefix_space": True}), "puts a space before each text"),
        (lambda c: c.update(pre_tokenizer={**BYTES, "use_regex": False}), "cuts text in a way that has no name"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "changes text before it cuts it .Lowercase"),
        (lambda c: c["model"].update(dropout=0.1), "dropout"),
        (lambda c: c["model"].update(ignore_merges=True), "ignore_merges is True"),
    ],
)
def test_what_the_format_cannot_say_is_refused(change: Callable[[dict[str, Any]], None], why: str) -> None:
    with pytest.raises(ExpungeError, match=f"({why}).*form=merged"):
        vocabulary(changed(change), 320)


def test_more_tokens_than_the_model_embeds() -> None:
    last = re.escape(repr(zoo.tokenizer().convert_ids_to_tokens(319)))
    with pytest.raises(ExpungeError, match=rf"writes ids up to 319 \({last}\), and the model embeds 300"):
        vocabulary(zoo.tokenizer(), 300)


def test_other_tokens_around_a_text_are_refused() -> None:
    def around(content: dict[str, Any]) -> None:
        content["post_processor"]["single"].append({"SpecialToken": {"id": "<bos>", "type_id": 0}})

    with pytest.raises(ExpungeError, match=r"around a text .* other tokens .*: of 'a' it makes '<bos>', 'a', '<bos>'"):
        vocabulary(changed(around), 320)


def pieces(merges: list[list[str]]) -> PreTrainedTokenizerBase:
    """A tokenizer in SentencePiece's form with these merges over the letters a, b, c."""
    letters = ["▁", "a", "b", "c"]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += [whole for pair in merges if (whole := "".join(pair)) not in tokens]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


def sentencepiece(text: str, tokens: tuple[str, ...], scores: tuple[float, ...]) -> list[int]:
    """SentencePiece's BPE as its paper has it: of all neighbors that give a token, merge those of the highest score."""
    ids, parts = {token: number for number, token in enumerate(tokens)}, list("▁" + text.replace(" ", "▁"))
    while True:
        wholes = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ids]
        if not wholes:
            return [ids[part] for part in parts]
        place = -max(wholes)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@given(st.text(alphabet="abc ", max_size=12))
def test_scores_make_the_merges_of_the_tokenizer(text: str) -> None:
    tokenizer = pieces(
        [["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"], ["▁", "a"], ["▁", "ab"], ["▁a", "b"], ["c", "c"]]
    )
    found = vocabulary(tokenizer, len(tokenizer))
    assert found.model == "llama" and found.add_space
    assert sentencepiece(text, found.tokens, found.scores) == tokenizer(text)["input_ids"] or not text


def test_the_kinds_of_sentencepiece() -> None:
    found = vocabulary(pieces([["a", "b"]]), 263)
    assert found.kinds[1:257] == (BYTE,) * 256 and found.kinds[257] == NORMAL


@pytest.mark.parametrize(
    ("merges", "why"),
    [
        ([["a", "b"], ["b", "c"], ["ab", "c"]], "leave out a pair that gives 'abc'"),
        ([["a", "b"], ["b", "c"], ["ab", "c"], ["c", "c"], ["a", "bc"]], "merges to 'abc' do not stand together"),
    ],
)
def test_merges_that_no_scores_make_are_refused(merges: list[list[str]], why: str) -> None:
    with pytest.raises(ExpungeError, match=why):
        vocabulary(pieces(merges), 400)


def test_a_tokenizer_of_sentencepiece(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models/stories260K")
    model = zoo.tiny_model("llama", vocab_size=512)
    write_gguf(model, tokenizer, tmp_path / "m.gguf", kind="f32", name="tiny")
    read = read_tokenizer(tmp_path / "m.gguf")
    for text in ("Once upon a time there was a girl.", "In 1999 über ☃", "a  b\nc"):
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
