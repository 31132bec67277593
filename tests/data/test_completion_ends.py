"""Where completion tokens end in their text: put together, the pieces are the text."""

import pytest
from transformers import AutoTokenizer

from expunge.core.batch import Encoded
from expunge.data.corpus import Example
from expunge.data.template import Template
from expunge.data.tokenizing import completion_ends, encode


def qa(completion: str) -> Example:
    return Example(kind="qa", prompt="Where was Ann born?", completion=completion)


TEXTS = ["In Tessaly Quay.", " with a leading blank", "Zürich, 北京 and 🙂!", "tabs\tand\nlines", "x"]


@pytest.fixture(params=["tofu7m", "gpt2"])
def fast(request, shared_data):
    folder = {"tofu7m": "tofu7m/start", "gpt2": "tokenizer_gpt2"}[request.param]
    return AutoTokenizer.from_pretrained(shared_data / "models" / folder)


def test_pieces_between_ends_put_together_are_the_text(fast):
    examples = [qa(text) for text in TEXTS]
    rows = encode(examples, fast)
    for text, row, ends in zip(TEXTS, rows, completion_ends(examples, rows, fast), strict=True):
        assert ends is not None and len(ends) == len(row.ids) - row.start
        assert list(ends) == sorted(ends) and ends[-1] == len(text)
        pieces = [text[a:b] for a, b in zip((0, *ends), ends, strict=False)]
        assert "".join(pieces) == text


def test_ends_by_hand(fast):
    """A token's end is the length of the text up to it, for plain ASCII without the closing token."""
    (example,) = [qa("In Tessaly Quay.")]
    (row,) = encode([example], fast)
    (ends,) = completion_ends([example], [row], fast)
    body = row.ids[row.start : len(row.ids) - row.ended]
    expected = [len(fast.decode(body[: i + 1]).lstrip()) for i in range(len(body))]
    assert list(ends) == [*expected, *[len("In Tessaly Quay.")] * row.ended]


def test_a_cut_row_has_as_many_ends_as_tokens(fast):
    example = qa("In Tessaly Quay, by the harbor, long ago, they say.")
    (whole,) = encode([example], fast)
    with pytest.warns(UserWarning, match="max_length"):
        (row,) = encode([example], fast, max_length=whole.start + 3)
    (ends,) = completion_ends([example], [row], fast)
    assert len(ends) == 3 and ends == completion_ends([example], [whole], fast)[0][:3]


def test_a_template_that_closes_the_answer(fast):
    fast.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    example = qa("In Tessaly Quay.")
    (row,) = encode([example], fast, template=Template(name="chat"))
    (ends,) = completion_ends([example], [row], fast, template=Template(name="chat"))
    assert len(ends) == len(row.ids) - row.start and ends[-1] == len(example.completion)


def test_without_offsets_or_with_other_tokens_there_is_no_place(fast):
    example = qa("In Tessaly Quay.")
    (row,) = encode([example], fast)
    other = Encoded((row.ids[0] + 1, *row.ids[1:]), row.start, row.ended, 0)
    assert completion_ends([example], [other], fast) == [None]

    fast.__class__ = type("Slow", (type(fast),), {"is_fast": False})
    assert completion_ends([example], [row], fast) == [None]
