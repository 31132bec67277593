"""Alternate answers that the start model makes up itself."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.models.fits import check_rows_fit
from expunge.models.generate import continuations, end_tokens, sampler

FILE = "alternates.jsonl"
ROUNDS = 4
"""How often a question is sampled anew while it lacks alternates."""


def made_up(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    alternates: int = 5,
    temperature: float = 1.0,
    seed: int = 0,
    template: Template | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
) -> tuple[Example, ...]:
    """The examples with alternate answers sampled from the model, where they have none of their own.

    Samples that are empty or the true answer itself are drawn anew, up to four times; an answer is at most twice as
    long as the longest true one.

    Args:
        model: the start model, used in evaluation mode.
        tokenizer: its tokenizer.
        examples: what is to be forgotten.
        alternates: distinct answers to a question; fewer where the model makes up no more, which a warning counts.
        temperature: of sampling.
        seed: of sampling.
        template: how questions are framed.
        max_length: longest row in tokens.
        progress: called with (what, samples done, samples in all, words).

    Raises:
        ExpungeError: the model gives nothing but the true answer to some questions.
    """
    require_at_least("alternates", alternates, 1)
    bare = [i for i, example in enumerate(examples) if not example.alternates]
    rows = {
        i: row
        for i, row in zip(
            bare, encode([examples[i] for i in bare], tokenizer, template=template, max_length=max_length), strict=True
        )
    }
    if not rows:
        return tuple(examples)
    check_rows_fit(model, rows.values())
    ends = end_tokens(model, tokenizer, rows.values())
    longest = 2 * max(len(row.ids) - row.start for row in rows.values())
    found: dict[int, list[str]] = {i: [] for i in bare}
    pick = sampler(temperature=temperature, seed=seed, device=model.device)
    was_training = model.training
    model.eval()
    for draw in range(ROUNDS * alternates):
        short = [i for i in bare if len(found[i]) < alternates]
        if not short:
            break
        wanted = {rows[i].prompt_ids: longest for i in short}
        said = continuations(model, wanted, eos_ids=ends, pick=pick)
        for i in short:
            text = tokenizer.decode(said[rows[i].prompt_ids], skip_special_tokens=True).strip()
            if text and text != examples[i].completion.strip() and text not in found[i]:
                found[i].append(text)
        if progress is not None:
            progress("sampling alternate answers", draw + 1, ROUNDS * alternates, f"{len(short)} questions")
    model.train(was_training)
    none = [i for i in bare if not found[i]]
    if none:
        raise ExpungeError(
            f"the start model answers {len(none)} of {len(bare)} questions with the true answer however often it is "
            f"sampled ({ROUNDS * alternates} times at alternate_temperature={temperature:g}), first "
            f"{examples[none[0]].origin or none[0]}. "
            "Raise alternate_temperature, or bring alternates with the data."
        )
    fewer = sum(len(texts) < alternates for texts in found.values())
    if fewer:
        warnings.warn(
            f"{fewer} of {len(bare)} questions have fewer than {alternates} alternate answers: at "
            f"alternate_temperature={temperature:g} the model made up no more in {ROUNDS * alternates} samples.",
            stacklevel=2,
        )
    return tuple(replace(e, alternates=tuple(found[i])) if i in found else e for i, e in enumerate(examples))


def supplied(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    resumed: Path | None,
    **how: Any,
) -> Corpus:
    """The corpus with alternates made up by the start model, or those that the run to be resumed was made with.

    Args:
        model: the start model.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        resumed: folder of the run to be resumed.
        **how: settings of `made_up`.
    """
    if resumed is not None and (resumed / FILE).is_file():
        forget = read(corpus["forget"], resumed)
    else:
        forget = made_up(model, tokenizer, corpus["forget"], **how)
    return replace(corpus, splits={**corpus.splits, "forget": forget})


def write(examples: Sequence[Example], folder: Path) -> None:
    """Keep alternates with a run, one line an example."""
    partial = folder / f"{FILE}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for example in examples:
            line = {"question": example.question, "answer": example.completion, "alternate": example.alternates}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    partial.replace(folder / FILE)  # whole or not at all, also where the run is killed meanwhile


def read(examples: Sequence[Example], folder: Path) -> tuple[Example, ...]:
    """The examples with the alternates that `write` kept.

    Raises:
        ExpungeError: they were kept of other examples.
    """
    lines = [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").split("\n") if line]
    if [line["answer"] for line in lines] != [example.completion for example in examples]:
        raise ExpungeError(f"{folder / FILE} holds alternates of another forget set; choose another output.")
    return tuple(replace(e, alternates=tuple(line["alternate"])) for e, line in zip(examples, lines, strict=True))
