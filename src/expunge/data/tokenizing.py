"""Text to token rows with a known completion; prompt and completion are separated by character offsets."""

import re
import warnings
from collections.abc import Collection, Sequence
from itertools import accumulate
from os.path import commonprefix

from transformers import PreTrainedTokenizerBase

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError, require_at_least
from expunge.data.corpus import Example, places
from expunge.data.row import each
from expunge.data.template import Rendered, Template, dated, render, special_tokens


def encode(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template | None = None,
    max_length: int = 512,
) -> list[Encoded]:
    """Tokenize examples as single texts and find their completions by offsets.

    A token belongs to the completion if it holds any character of it, so that the row is tokenized as the model will
    see it and never stitched from pieces (a tokenizer without offsets is the one exception: its prompt and completion
    are joined as ids).

    Args:
        examples: what to encode.
        tokenizer: a Hugging Face tokenizer.
        template: how questions are framed.
        max_length: longest row, in tokens; longer ones lose their end, which is counted in a warning.

    Returns:
        One row per example, in order.

    Raises:
        ExpungeError: a completion without tokens, before or after truncation; the message names the row.
    """
    require_at_least("max_length", max_length, 2)
    template = dated(template, tokenizer)
    special = special_tokens(tokenizer)
    _warn_of_spelled(examples, special)
    rendered = [render(example, tokenizer, template, special) for example in examples]
    pieces: dict[int, tuple[list[int], int]] = {}
    for adding in (True, False):
        where = [i for i, r in enumerate(rendered) if r.special_tokens is adding]
        pieces |= zip(where, _tokenize([rendered[i] for i in where], tokenizer, adding), strict=True)

    def finished(i: int) -> Encoded:
        return _finish(*pieces[i], rendered[i], examples[i], tokenizer.eos_token_id, max_length)

    rows = each(range(len(examples)), finished, "the set")
    if note := truncation(examples, rows, max_length):
        warnings.warn(note, stacklevel=2)
    return rows


def completion_ends(
    examples: Sequence[Example],
    rows: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template | None = None,
) -> list[tuple[int, ...] | None]:
    """Where each completion token ends in the text of the completion, in characters.

    Args:
        examples: what was encoded.
        rows: what `encode` made of them, in order; possibly cut.
        tokenizer: the same tokenizer.
        template: the same template.

    Returns:
        One position per completion token, never falling; what closes the completion ends where its text does. None for
        an example whose tokens have no known place: of a tokenizer without offsets, or of a template that changes the
        text.
    """
    if not tokenizer.is_fast:
        return [None] * len(examples)
    template, special = dated(template, tokenizer), special_tokens(tokenizer)
    rendered = [render(example, tokenizer, template, special) for example in examples]
    found: list[tuple[int, ...] | None] = []
    for example, row, r in zip(examples, rows, rendered, strict=True):
        encoding = tokenizer(r.text, add_special_tokens=r.special_tokens, return_offsets_mapping=True, verbose=False)
        n = min(len(row.ids), len(encoding["input_ids"]))
        begins, size = len(r.prompt), len(example.completion)
        same = tuple(encoding["input_ids"][:n]) == row.ids[:n] and r.text.startswith(example.completion, begins)
        ends = [min(max(end - begins, 0), size) for _, end in encoding["offset_mapping"][row.start : n]]
        # An end token that was appended, or that the template writes, stands behind the text.
        closed = [size] * (len(row.ids) - n)
        found.append(tuple(accumulate([*ends, *closed], max)) if same else None)
    return found


def truncation(examples: Sequence[Example], rows: Sequence[Encoded], max_length: int) -> str:
    """A sentence on the rows that lost their end, with their places; empty where none did."""
    cut = [n for n, row in enumerate(rows) if row.truncated]
    if not cut:
        return ""
    longest = max(len(rows[n].ids) + rows[n].truncated for n in cut)
    return (
        f"{len(cut)} of {len(rows)} rows are longer than max_length={max_length} and lost "
        f"{sum(rows[n].truncated for n in cut)} tokens at their end; the longest needs max_length={longest}. They are "
        f"{places(examples, cut)}."
    )


def _warn_of_spelled(examples: Sequence[Example], special: Collection[str]) -> None:
    """Say where the text of an example spells a special token, which the tokenizer then takes for one.

    Prompt and completion columns and plain texts are exempt: they are as they are to be, special tokens included.
    """
    spelling = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))
    found: dict[str, str] = {}
    for example in examples if special else ():
        if example.kind in ("completion", "text"):
            continue
        for text in (example.prompt, example.completion, *(content for _, content in example.messages)):
            if match := spelling.search(text):
                found.setdefault(example.origin or example.question[:60], match.group())
    if found:
        name, token = next(iter(found.items()))
        warnings.warn(
            f"{len(found)} rows spell special tokens in their text ({name}: {token!r}): the tokenizer takes them for "
            "such. Change the text unless that is meant.",
            stacklevel=3,
        )


def _tokenize(
    rendered: list[Rendered], tokenizer: PreTrainedTokenizerBase, special: bool
) -> list[tuple[list[int], int]]:
    """Ids of each text, without an end token that the tokenizer adds by itself, and where its completion begins."""
    if not rendered:
        return []
    if not tokenizer.is_fast:
        return [_joined(r, tokenizer, special) for r in rendered]
    texts = [r.text for r in rendered]
    # verbose=False: rows too long for the model are cut, and counted, by `encode`.
    encoding = tokenizer(
        texts, add_special_tokens=special, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    offset_lists, added_lists = encoding["offset_mapping"], encoding["special_tokens_mask"]
    found = []
    for r, ids, offsets, added in zip(rendered, encoding["input_ids"], offset_lists, added_lists, strict=True):
        n = len(ids)
        while n and added[n - 1] and ids[n - 1] == tokenizer.eos_token_id:
            n -= 1
        # Offsets may leave out outer spaces, so that a leading one ends at 0: without a prompt they are not asked.
        after = (i for i in range(n) if not added[i] and (not r.prompt or offsets[i][1] > len(r.prompt)))
        found.append((list(ids[:n]), next(after, n)))
    return found


def _joined(rendered: Rendered, tokenizer: PreTrainedTokenizerBase, special: bool) -> tuple[list[int], int]:
    prompt = list(tokenizer(rendered.prompt, add_special_tokens=special)["input_ids"])
    added_end = special and prompt and prompt[-1] == tokenizer.eos_token_id
    if added_end and (len(prompt) > 1 or tokenizer.bos_token_id != tokenizer.eos_token_id):
        prompt.pop()
    rest = tokenizer(rendered.text[len(rendered.prompt) :], add_special_tokens=False)["input_ids"]
    return [*prompt, *rest], len(prompt)


def _finish(
    ids: list[int],
    start: int,
    rendered: Rendered,
    example: Example,
    eos: int | None,
    max_length: int,
) -> Encoded:
    name = example.origin or f"the example {example.question[:60]!r}"
    if start >= len(ids) or (start == 0 and len(ids) == 1):
        raise ExpungeError(
            f"{name}: the completion has no token that anything could predict. It reads {example.completion[:60]!r}."
        )
    if start == 0 and example.kind != "text":
        raise ExpungeError(
            f"{name}: the completion begins in the first token of the row, which nothing predicts. Put a prompt before "
            f"it, or a space between the two. It reads {rendered.text[:60]!r}."
        )
    if rendered.append_eos and eos is not None and ids[-1] != eos:
        ids = [*ids, eos]
    start = max(start, 1)  # of plain text, the first token is context only: nothing predicts it
    truncated = max(0, len(ids) - max_length)
    if truncated and start >= max_length:
        raise ExpungeError(
            f"{name}: its prompt alone has {start} tokens, so max_length={max_length} leaves none of the completion. "
            f"Raise max_length to {start + 1} or more, or shorten the prompt."
        )
    closed_by_template = example.kind != "text" and not rendered.append_eos
    ended = not truncated and (closed_by_template or ids[-1] == eos)
    return Encoded(tuple(ids[:max_length]), start, ended, truncated)


def marked(row: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The row as text in two pieces, (given, False) and (supervised, True), which together read as the whole."""
    whole = tokenizer.decode(row.ids)
    given = commonprefix([tokenizer.decode(row.prompt_ids), whole])  # noqa: RUF071, no paths here
    return [(given, False), (whole[len(given) :], True)]
