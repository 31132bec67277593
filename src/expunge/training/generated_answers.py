"""Alternate answers that the start model makes up itself."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.cache import cache_path
from expunge.core.checks import ExpungeError, require_at_least
from expunge.core.manifest import fingerprint, jsonable
from expunge.core.progress import Progress
from expunge.core.whole import write_whole
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.models.anatomy import evaluating
from expunge.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from expunge.models.generate import continuations, end_tokens, sampler
from expunge.models.rows_fit import check_rows_fit

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
    with evaluating(model):
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
    *,
    progress: Progress | None = None,
    **how: Any,
) -> Corpus:
    """The corpus with alternates made up by the start model, from the cache where they were made before.

    They are kept there, by content, and not with the run: they may repeat what is to be forgotten.

    Args:
        model: the start model.
        tokenizer: its tokenizer.
        corpus: holds `forget`.
        progress: as for `made_up`.
        **how: settings of `made_up`.
    """
    about = {
        "model": model_fingerprint(model),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "forget": corpus.fingerprint("forget"),
        **how,
        "template": asdict(how["template"] or Template()),
    }
    path = cache_path("alternates", fingerprint(jsonable(about))).with_suffix(".json")
    kept = _read(path)
    if kept is None:
        forget = made_up(model, tokenizer, corpus["forget"], progress=progress, **how)
        texts = [list(example.alternates) for example in forget]
        write_whole(path, json.dumps({"digest": fingerprint(texts), "alternates": texts}) + "\n")
    else:
        pairs = zip(corpus["forget"], kept, strict=True)
        forget = tuple(replace(example, alternates=tuple(texts)) for example, texts in pairs)
    return replace(corpus, splits={**corpus.splits, "forget": forget})


def _read(path: Path) -> list[list[str]] | None:
    """What was kept; None where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        texts: list[list[str]] = content["alternates"]
        return texts if content["digest"] == fingerprint(texts) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
