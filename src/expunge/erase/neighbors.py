"""Retain rows that the start model makes: questions like those to forget, and its own answers to them."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError
from expunge.core.format import counted
from expunge.core.progress import Progress
from expunge.core.whole import write_whole
from expunge.data.corpus import Corpus, Example, load_corpus
from expunge.data.similar import nearly_the_same
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.models.anatomy import evaluating
from expunge.models.generate import continuations, end_tokens, sampler

MARK = "made by the start model"
SHOWN = 3
"""Questions to forget that a prompt shows, never their answers."""
ROUNDS = 4
"""Prompts for each row that is wanted; most of what comes is no question, or too like one to forget."""
QUESTION_TOKENS, ANSWER_TOKENS = 40, 96


def neighbors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    number: int,
    *,
    template: Template | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Example, ...]:
    """Questions that the start model asks after some to forget, with the answers that it gives.

    They hold the model where it stands near the forget set; they are no facts, and each says where it comes from
    (`origin`). A question that is nearly one to forget, or whose answer is nearly one to forget, is left out.

    Args:
        model: the start model.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        number: how many are wanted; a warning says where fewer come.
        template: how questions are framed.
        seed: of sampling.
        progress: called with (what, done, total, words).

    Raises:
        ExpungeError: the forget set holds no questions, or the model asks none.
    """
    facts = [fact for fact in corpus["forget"] if fact.kind == "qa"]
    if not facts:
        raise ExpungeError("neighbors are made of questions, and the forget set holds none: name a retain set.")
    generator = torch.Generator().manual_seed(seed)
    shown = [torch.randperm(len(facts), generator=generator)[:SHOWN].tolist() for _ in range(ROUNDS * number)]
    prompts = ["".join(f"Question: {facts[i].prompt}\n" for i in some) + "Question:" for some in shown]
    ids = [tuple(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    questions = _questions(_written(model, tokenizer, ids, QUESTION_TOKENS, seed, progress))
    rows = [Example(kind="qa", prompt=question, completion="?", origin=MARK) for question in questions]
    rows = _apart(rows, [fact.prompt for fact in facts], by=lambda row: row.prompt)[:number]
    if not rows:
        raise ExpungeError("the start model asks no question of its own after those to forget: name a retain set.")
    encoded = encode(rows, tokenizer, template=template)
    ends = end_tokens(model, tokenizer, encoded)
    with evaluating(model):
        said = continuations(model, {row.prompt_ids: ANSWER_TOKENS for row in encoded}, eos_ids=ends, progress=progress)
    answers = [str(tokenizer.decode(said[row.prompt_ids], skip_special_tokens=True)).strip() for row in encoded]
    made = [replace(row, completion=answer) for row, answer in zip(rows, answers, strict=True) if answer]
    made = _apart(made, [fact.completion for fact in facts], by=lambda row: row.completion)
    if not made:
        raise ExpungeError("the start model answers none of the questions that it made: name a retain set.")
    if len(made) < number:
        warnings.warn(f"{counted(len(made), 'neighbor')} of {number} were made.", stacklevel=2)
    return tuple(made)


def with_neighbors(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    number: int,
    **how: Any,
) -> Corpus:
    """The corpus with retain rows that the start model makes; they are kept in a file, for a reader, too.

    Args:
        file: where they are; what is there is not made again.
        model: the start model.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        number: how many are wanted.
        how: as for `neighbors`.
    """
    if not file.is_file():
        made = neighbors(model, tokenizer, corpus, number, **how)
        rows = ({"question": row.prompt, "answer": row.completion, "origin": row.origin} for row in made)
        write_whole(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    retain = corpus["retain"] if "retain" in corpus else ()
    splits = {**corpus.splits, "retain": (*retain, *load_corpus("files", retain=str(file))["retain"])}
    origin = dict(corpus.origin)
    if origin.get("source") == "files":
        origin["retain"] = ",".join(filter(None, (origin.get("retain"), str(file))))
    return replace(corpus, splits=splits, origin=origin if origin.get("source") == "files" else {})


def _written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    longest: int,
    seed: int,
    progress: Progress | None,
) -> list[str]:
    """What the model samples after each distinct prompt."""
    pick = sampler(temperature=1.0, seed=seed, device=model.device)
    with evaluating(model):
        said = continuations(
            model,
            dict.fromkeys(prompts, longest),
            eos_ids=end_tokens(model, tokenizer, ()),
            pick=pick,
            progress=progress,
        )
    return [str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in said.values()]


def _questions(texts: Sequence[str]) -> list[str]:
    """The first line of each text, where it is a question."""
    lines = (text.strip().split("\n")[0].strip() for text in texts)
    return [line for line in lines if line.endswith("?") and len(line.split()) > 2]


def _apart(rows: Sequence[Example], others: Sequence[str], *, by: Callable[[Example], str]) -> list[Example]:
    """The rows that are nearly none of the others, and not nearly the same as a row before them."""
    found: list[Example] = []
    for row in rows:
        if not nearly_the_same([*others, *(by(one) for one in found)], [by(row)]):
            found.append(row)
    return found
