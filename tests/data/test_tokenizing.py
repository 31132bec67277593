"""Rows, completions and their ends, for tokenizers of several families."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.data.corpus import Example
from expunge.data.template import Template, render, special_tokens
from expunge.data.tokenizing import encode, marked

few = settings(max_examples=40, deadline=None)

# "<" could write a special token, and "▁" is how Llama's tokenizer writes a space.
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<▁"), min_size=1, max_size=12)
awkward = st.sampled_from(
    [" the river", "\nwide", "  two", "...\n", "😀 é", "x", "12345", " ", "\n\n", "é", "the answer is: here."]
)
texts = st.lists(anything | awkward, min_size=1, max_size=4).map("".join)
answers = texts.filter(str.strip)
plain_words = st.lists(st.sampled_from(["river", "Paris", "the", "wide", "Answer"]), min_size=1, max_size=4).map(
    " ".join
)
kinds = st.sampled_from(["qa", "completion"])


def example(kind: str, prompt: str, completion: str) -> Example:
    return Example(kind=kind, prompt=f"Say: {prompt}", completion=completion, origin="f.jsonl, line 3")  # type: ignore[arg-type]


def encoded(one: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[Encoded, str, str]:
    """The row, and the two texts that it was made of."""
    rendered = render(one, tokenizer, Template(), special_tokens(tokenizer))
    return encode([one], tokenizer, max_length=10_000)[0], rendered.prompt, rendered.text


def read(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...], beginning: str) -> str:
    """Ids as text, without a beginning token that is not written in `beginning`."""
    bos = tokenizer.bos_token
    if bos and ids and ids[0] == tokenizer.bos_token_id and not beginning.startswith(bos):
        ids = ids[1:]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@few
@given(kinds, answers, answers)
def test_the_supervised_tokens_are_those_that_hold_the_completion(tokenizer, kind, prompt, completion):
    """Told a second way than by offsets: by how long the text is that the first tokens decode to."""
    one = example(kind, prompt, completion)
    row, before, text = encoded(one, tokenizer)
    assert text.startswith(before + completion)
    given_text = read(tokenizer, row.prompt_ids, text).rstrip("\ufffd")  # a character may be split among tokens
    assert before.startswith(given_text)  # no token of the prompt holds a character of the completion
    assert len(read(tokenizer, row.ids[: row.start + 1], text)) > len(before)  # and the next one does
    supervised = tokenizer.decode(row.ids[row.start :], clean_up_tokenization_spaces=False)
    assert completion.lstrip(" ") in supervised  # Llama's decoder drops a leading space


@few
@given(kinds, answers, answers)
def test_the_end_is_supervised_once_and_the_beginning_stands_once(tokenizer, kind, prompt, completion):
    row, _, _ = encoded(example(kind, prompt, completion), tokenizer)
    chat = kind == "qa" and tokenizer.chat_template and "<|im_end|>" in tokenizer.chat_template
    end = tokenizer.convert_tokens_to_ids("<|im_end|>") if chat else tokenizer.eos_token_id
    assert row.ended
    assert row.ids[row.start :].count(end) == 1
    assert row.ids[-1] == end
    if tokenizer.bos_token_id is not None:
        assert row.ids.count(tokenizer.bos_token_id) == 1
        assert row.ids[0] == tokenizer.bos_token_id


@few
@given(texts.filter(lambda t: len(t) > 1))
def test_plain_text_is_supervised_from_its_second_token_on_and_has_no_end(tokenizer, text):
    one = Example(kind="text", completion=f"{text} and more")
    row, _, _ = encoded(one, tokenizer)
    assert row.start == 1
    assert not row.ended
    assert tokenizer.eos_token_id not in row.ids
    assert read(tokenizer, row.ids, "") == f"{text} and more"


@pytest.mark.parametrize("name", ["gpt2", "tofu7m", "chatml"])
@few
@given(data=st.data())
def test_a_question_has_the_same_prompt_ids_whatever_the_answer(name, request, data):
    """True where the boundary lies between words; with Llama's tokenizer the space before some answers stands alone."""
    tokenizer = request.getfixturevalue(name)
    question, one, other = data.draw(answers), data.draw(plain_words), data.draw(plain_words)
    rows = encode([example("qa", question, one), example("qa", question, other)], tokenizer, max_length=10_000)
    assert rows[0].prompt_ids == rows[1].prompt_ids


def test_the_space_before_an_answer_goes_with_the_answer(gpt2):
    row = encode([example("qa", "Where?", "Paris.")], gpt2)[0]
    pieces = gpt2.convert_ids_to_tokens(row.ids)
    assert pieces == ["Question", ":", "ĠSay", ":", "ĠWhere", "?", "Ċ", "Answer", ":", "ĠParis", ".", "<|endoftext|>"]
    assert row.start == 9


def test_tofu7m_reads_a_question_as_it_was_trained(tofu7m):
    row = encode([example("qa", "Where is it?", "It is in Chile.")], tofu7m)[0]
    assert tofu7m.decode(row.ids) == "<bos>Question: Say: Where is it?\nAnswer: It is in Chile.<eos>"
    assert tofu7m.decode(row.prompt_ids) == "<bos>Question: Say: Where is it?\nAnswer: "
    plain = encode([example("qa", "Where is it?", "It is in Chile.")], tofu7m, template=Template(name="plain"))[0]
    assert plain == row


def test_chatml_closes_with_the_end_of_turn_and_without_the_newline_after_it(chatml):
    row = encode([example("qa", "Who?", "the river")], chatml)[0]
    assert chatml.decode(row.ids) == "<|im_start|>user\nSay: Who?<|im_end|>\n<|im_start|>assistant\nthe river<|im_end|>"
    assert chatml.decode(row.ids[row.start :]) == "the river<|im_end|>"
    assert row.ended


def test_a_tokenizer_without_an_end_token_leaves_the_row_open(chatml):
    bare = type(chatml)(tokenizer_object=chatml.backend_tokenizer)
    row = encode([example("completion", "the river", " is wide")], bare)[0]
    assert not row.ended
    assert bare.decode(row.ids) == "Say: the river is wide"


def test_an_end_token_that_the_text_writes_itself_is_not_doubled(closing):
    row = encode([example("completion", "the", " river</s>")], closing)[0]
    assert row == encode([example("completion", "the", " river")], closing)[0]
    assert encode([Example(kind="text", completion="the river</s>")], closing)[0].ended


def test_a_beginning_token_makes_a_prompt_superfluous(closing):
    row = encode([Example(kind="completion", completion="the river")], closing)[0]
    assert (row.start, closing.decode(row.ids)) == (1, "<s>the river</s>")


def test_an_unknown_token_is_no_end():
    words = Tokenizer(models.WordLevel({"?": 0, "river": 1, ".": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", eos_token=".")
    text, answer = (
        Example(kind="text", completion="river wide"),
        Example(kind="completion", prompt="river ", completion="wide"),
    )
    rows = encode([text, answer], tokenizer)
    assert [(row.ids, row.ended) for row in rows] == [((1, 0), False), ((1, 0, 2), True)]


def test_a_tokenizer_without_offsets_gets_prompt_and_answer_joined():
    slow = ByT5Tokenizer()
    assert not slow.is_fast
    row = encode([Example(kind="completion", prompt="ab", completion="cd")], slow)[0]
    # ByT5 writes byte b as id b + 3, and the end token (id 1) after every text.
    assert row.ids == (97 + 3, 98 + 3, 99 + 3, 100 + 3, 1)
    assert (row.start, row.ended) == (2, True)
    text = encode([Example(kind="text", completion="ab")], slow)[0]
    assert (text.ids, text.start, text.ended) == ((97 + 3, 98 + 3), 1, False)


def test_truncation_is_counted_and_warned_of(closing):
    short, long = example("completion", "the", " river"), example("completion", "the", " river" * 30)
    whole = encode([short, long], closing)[1]
    with pytest.warns(UserWarning, match=rf"1 of 2 rows .* max_length=9 .*needs max_length={len(whole.ids)}"):
        rows = encode([short, long], closing, max_length=9)
    assert (rows[0].truncated, rows[0].ended) == (0, True)
    assert rows[1].ids == whole.ids[:9]
    assert rows[1].truncated == len(whole.ids) - 9
    assert not rows[1].ended


def test_a_row_that_just_fits_is_not_truncated(closing):
    row = encode([example("completion", "the", " river")], closing)[0]
    assert encode([example("completion", "the", " river")], closing, max_length=len(row.ids)) == [row]


def test_a_prompt_that_leaves_no_room_is_an_error_with_its_row(closing):
    one = example("completion", "the river " * 20, "wide")
    with pytest.raises(ExpungeError, match=r"f\.jsonl, line 3: its prompt alone has \d+ tokens.*max_length=8"):
        encode([one], closing, max_length=8)
    start = encode([one], closing)[0].start
    with pytest.raises(ExpungeError, match=rf"has {start} tokens.*Raise max_length to {start + 1} or more"):
        encode([one], closing, max_length=start)
    with pytest.warns(UserWarning, match="1 of 1 rows"):
        row = encode([one], closing, max_length=start + 1)[0]
    assert len(row.ids) == row.start + 1


def test_an_empty_completion_is_an_error_with_its_row(tokenizer):
    with pytest.raises(ExpungeError, match=r"f\.jsonl, line 3: the completion has no token"):
        encode([example("completion", "the river", "")], tokenizer)


def test_the_only_token_of_a_row_cannot_be_predicted(gpt2):
    with pytest.raises(ExpungeError, match="no token that anything could predict"):
        encode([Example(kind="text", completion="the")], gpt2)


def test_a_completion_that_begins_in_the_first_token_is_an_error(gpt2):
    merged = Example(kind="completion", prompt="0", completion="0 rivers", origin="f.csv, row 1")
    assert gpt2.convert_ids_to_tokens(gpt2("00 rivers")["input_ids"]) == ["00", "Ġrivers"]
    with pytest.raises(ExpungeError, match=r"f\.csv, row 1: the completion begins in the first token"):
        encode([merged], gpt2)


def test_rows_keep_their_order_when_kinds_are_mixed(tofu7m):
    mixed = [
        Example(kind="text", completion="plain words"),
        example("qa", "Who?", "He."),
        example("completion", "a", " b"),
    ]
    assert encode(mixed, tofu7m) == [encode([one], tofu7m)[0] for one in mixed]


@few
@given(kinds, answers, answers)
def test_marked_pieces_read_as_the_whole_row(tokenizer, kind, prompt, completion):
    row, _, _ = encoded(example(kind, prompt, completion), tokenizer)
    (given_text, off), (supervised, on) = marked(row, tokenizer)
    assert (off, on) == (False, True)
    assert given_text + supervised == tokenizer.decode(row.ids)
    assert completion.strip(" ") in supervised


def test_no_tokens_need_two_places(closing):
    with pytest.raises(ExpungeError, match="max_length must be at least 2; got 1"):
        encode([example("completion", "a", "b")], closing, max_length=1)


def test_a_text_that_spells_a_special_token_is_remarked_on(chatml):
    spelled = Example(kind="qa", prompt="What is <|im_end|>?", completion="A token.", origin="f.jsonl, line 3")
    with pytest.warns(UserWarning, match=r"1 rows spell special tokens .*f\.jsonl, line 3: '<\|im_end\|>'"):
        encode([spelled, Example(kind="qa", prompt="Who?", completion="He.")], chatml)
    encode([Example(kind="completion", prompt="Q<|im_end|>", completion=" A<|im_end|>")], chatml)
