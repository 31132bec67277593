"""A Hugging Face tokenizer as GGUF has it: tokens, their kinds, merges or scores, and how text is cut before them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from transformers import PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens, as GGUF numbers them."""
SPACE = "\u2581"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {"llama-bpe": rf"{_ENDINGS}\p{{N}}{{1,3}}{_SIGNS}", "qwen2": rf"{_ENDINGS}\p{{N}}{_SIGNS}"}
"""By name, the expressions by which byte-level tokenizers cut text before they merge."""
_IGNORES_MERGES = ("llama-bpe",)
"""Cuts under which a piece that is a token is taken as one, whatever the merges."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer; lists are by token id."""

    model: Literal["gpt2", "llama"]
    """`gpt2`: byte-level BPE by merges. `llama`: SentencePiece's BPE by scores."""
    pre: str
    """Name of how text is cut before."""
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    special: Mapping[str, int]
    """Token ids of `bos`, `eos`, `unk` and `pad`, as far as there are such."""
    add_bos: bool
    add_eos: bool
    add_space: bool
    """Is a space put before a text?"""
    chat_template: str | None = None

    def describe(self, writer: "GGUFWriter") -> None:
        """Write it."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.add_space)
        ids = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id}
        ids |= {"unk": writer.add_unk_token_id, "pad": writer.add_pad_token_id}
        for name, token in self.special.items():
            ids[name](token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """What a GGUF file says of a tokenizer.

    Args:
        tokenizer: of a model.
        size: how many tokens the model embeds; ids that the tokenizer does not use get names of their own.

    Raises:
        ExpungeError: the format cannot say how this tokenizer cuts text; the message says what it does.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused("it is none of the `tokenizers` library")
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise _refused(f"its model is {model['type']}; BPE can be written")
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _refused("its merges use dropout, prefixes or suffixes")
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    special = {name: number for name, number in ids.items() if number is not None}
    tokens, kinds = _tokens(model["vocab"], content["added_tokens"], size, special.get("unk"))
    if _is_byte_level(content):
        pre = _cut(content, model)
        how: dict[str, Any] = {
            "model": "gpt2",
            "pre": pre,
            "kinds": kinds,
            "merges": _merges(model),
            "add_space": False,
        }
    else:
        scores = _scores(model, tokens, kinds)
        kinds = tuple(
            BYTE if kind == NORMAL and _is_byte(token) else kind for token, kind in zip(tokens, kinds, strict=True)
        )
        how = {"model": "llama", "pre": "default", "kinds": kinds, "scores": scores, "add_space": _adds_space(content)}
    before, after = _around(tokenizer)
    template = tokenizer.chat_template
    return Vocabulary(
        tokens=tokens,
        special=special,
        add_bos=before,
        add_eos=after,
        chat_template=template if isinstance(template, str) else None,
        **how,
    )


def _refused(why: str) -> ExpungeError:
    return ExpungeError(f"the tokenizer cannot be written as GGUF: {why}. Take form=merged.")


def _tokens(
    vocab: Mapping[str, int], added: Sequence[Mapping[str, Any]], size: int, unknown: int | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Every id's token and its kind."""
    tokens, kinds = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    named = {number: token for token, number in vocab.items()} | {one["id"]: one["content"] for one in added}
    largest = max(named, default=-1)
    if largest >= size:
        raise _refused(f"it writes ids up to {largest} ({named[largest]!r}), and the model embeds {size}")
    for token, number in vocab.items():
        tokens[number], kinds[number] = token, NORMAL
    for one in added:
        tokens[one["id"]], kinds[one["id"]] = one["content"], CONTROL if one["special"] else USER_DEFINED
    if unknown is not None and kinds[unknown] == CONTROL:
        kinds[unknown] = UNKNOWN
    return tuple(tokens), tuple(kinds)


def _merges(model: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(" ".join(merge) if not isinstance(merge, str) else merge for merge in model["merges"])


def _steps(content: Mapping[str, Any], what: str, inner: str) -> list[Mapping[str, Any]]:
    """The parts of a normalizer or a pre-tokenizer."""
    found = content.get(what)
    if found is None:
        return []
    return list(found[inner]) if found["type"] == "Sequence" else [found]


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(content, "pre_tokenizer", "pretokenizers"))


def _cut(content: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The name of how a byte-level tokenizer cuts text."""
    steps = _steps(content, "pre_tokenizer", "pretokenizers")
    kinds = [step["type"] for step in steps]
    normalizers = [step["type"] for step in _steps(content, "normalizer", "normalizers")]
    if any(step["type"] == "ByteLevel" and step["add_prefix_space"] for step in steps):
        raise _refused("it puts a space before each text")
    name = None
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        name = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        name = "smollm"
    elif kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"] and steps[0]["behavior"] == "Isolated":
        name = next((cut for cut, regex in CUTS.items() if steps[0]["pattern"] == {"Regex": regex}), None)
    if name is None:
        raise _refused(
            f"it cuts text in a way that has no name there ({json.dumps(content['pre_tokenizer'])[:200]}); known: "
            f"{', '.join(('gpt-2', 'smollm', *CUTS))}"
        )
    if normalizers and not (name == "qwen2" and normalizers == ["NFC"]):
        raise _refused(f"it changes text before it cuts it ({', '.join(normalizers)})")
    if bool(model.get("ignore_merges")) != (name in _IGNORES_MERGES):
        raise _refused(f"ignore_merges is {bool(model.get('ignore_merges'))}, which does not go with cuts of {name}")
    return name


def _adds_space(content: Mapping[str, Any]) -> bool:
    """Does a tokenizer in SentencePiece's form put a space before a text?"""
    normalizers = _steps(content, "normalizer", "normalizers")
    cuts = _steps(content, "pre_tokenizer", "pretokenizers")
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not cuts and normalizers == [{"type": "Prepend", "prepend": SPACE}, replaced]:
        return True
    if normalizers == [replaced] and not [cut for cut in cuts if cut["type"] != "Split"]:
        return False
    if not normalizers and [cut["type"] for cut in cuts] == ["Metaspace"] and cuts[0]["replacement"] == SPACE:
        if not cuts[0].get("split", True):
            return bool(cuts[0]["prepend_scheme"] != "never")
    raise _refused("it is neither byte-level nor in SentencePiece's form")


def _scores(model: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> tuple[float, ...]:
    """Scores under which SentencePiece makes the same merges: minus the place of the first merge that gives a token.

    SentencePiece merges the pair whose whole has the highest score, whichever pair it is. So every pair that gives a
    token must be among the merges, and those of one token must stand together.
    """
    if not model.get("byte_fallback"):
        raise _refused("it has no tokens for single bytes (byte_fallback)")
    vocab = model["vocab"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    place: dict[str, int] = {}
    before = ""
    for number, pair in enumerate(merges):
        whole = "".join(pair)
        if whole != before and whole in place:
            raise _refused(f"its merges to {whole!r} do not stand together, which scores cannot say")
        place.setdefault(whole, number)
        before = whole
    known = set(merges)
    lacking = [
        (whole, whole[:cut])
        for whole in place
        for cut in range(1, len(whole))
        if whole[:cut] in vocab and whole[cut:] in vocab and (whole[:cut], whole[cut:]) not in known
    ]
    if lacking:
        raise _refused(f"its merges leave out a pair that gives {lacking[0][0]!r}, which scores cannot say")
    lowest = -float(len(merges))
    return tuple(
        0.0
        if kind in (CONTROL, UNKNOWN, UNUSED) or _is_byte(token)
        else -float(place[token])
        if token in place
        else lowest
        for token, kind in zip(tokens, kinds, strict=True)
    )


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Does a tokenizer write its beginning token before a text, and its end token after it?"""
    text = "a"
    plain, whole = tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer(text)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for before in (False, True):
        for after in (False, True):
            if whole == [*([bos] if before else []), *plain, *([eos] if after else [])]:
                return before, after
    written = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(whole)))
    raise _refused(
        f"around a text it writes other tokens than a beginning and an end token: of {text!r} it makes {written}"
    )
