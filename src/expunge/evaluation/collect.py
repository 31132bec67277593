"""Collect: show a model every answer once and let it answer every prompt once; Records come out."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, jsonable
from expunge.core.records import Records
from expunge.core.rows import Encoded, collate
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.probe import Probe, completions, lacking
from expunge.models.anatomy import causal_lm
from expunge.models.generate import end_tokens, generate
from expunge.models.load import check_tokenizer_fits, model_fingerprint, tokenizer_fingerprint
from expunge.models.observe import observe

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

BATCH_TOKENS = 2**13
"""Padded tokens of one teacher-forced batch."""
CUT_AFTER = 50
"""Tokens after which a text is cut for verbatim memorization."""


def collect(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    probes: Sequence[Probe],
    *,
    template: Template | None = None,
    max_length: int = 512,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Records:
    """Show a model the answers that the probes name and record what it does.

    Every distinct token row is scored once and every distinct prompt answered once, however many probes ask for it. The
    model is in evaluation mode meanwhile and back in its own afterwards.

    Args:
        model: a causal language model, possibly wrapped (PEFT, DDP).
        tokenizer: its tokenizer.
        corpus: where the answers come from.
        probes: what to look at.
        template: how questions are framed.
        max_length: longest row in tokens.
        batch_size: rows computed at once; None: as many as fit a budget of tokens. Halved when the device runs out of
            memory.
        progress: told how far it is.

    Returns:
        Records with a manifest of everything that decides their values.

    Raises:
        ExpungeError: a split or variant that a probe asks for and the corpus lacks, or tokenizer and model that do not
            fit.
    """
    started = time.monotonic()
    check_tokenizer_fits(_plain(model), tokenizer)
    made = identity(model, tokenizer, corpus, probes, template=template, max_length=max_length)
    items = _items(corpus, probes, tokenizer, template, max_length)
    with _evaluating(model):
        scored = teacher_forced(model, [item.row for item in items], batch_size=batch_size, progress=progress)
        said = _generations(model, tokenizer, items, batch_size, progress)
    rows = [item.as_row(*values, said.get(i)) for i, (item, values) in enumerate(zip(items, scored, strict=True))]
    results = {
        "rows": len(rows),
        "tokens": int(sum(len(values) for values, _ in scored)),
        "generations": len({items[i].prompt_ids for i in said}),
        "seconds": round(time.monotonic() - started, 2),
        "batch_size": batch_size,
    }
    return Records.from_rows(rows, replace(made, results=results))


def identity(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    probes: Sequence[Probe],
    *,
    template: Template | None = None,
    max_length: int = 512,
) -> Manifest:
    """The manifest of records before they are made: two with equal inputs and arguments hold the same values."""
    plain = _plain(model)
    arguments = {
        "template": asdict(template or Template()),
        "max_length": max_length,
        "dtype": str(plain.dtype).removeprefix("torch."),
        "attention": str(plain.config._attn_implementation),
        "probes": [asdict(probe) for probe in sorted(probes, key=lambda p: p.name)],
    }
    splits = sorted({probe.split for probe in probes})
    inputs = {"model": model_fingerprint(plain), "tokenizer": tokenizer_fingerprint(tokenizer)}
    inputs |= {f"data.{split}": corpus.fingerprint(split) for split in splits}
    return Manifest(stage="evaluate", arguments=jsonable(arguments), inputs=inputs)


def _plain(model: nn.Module) -> PreTrainedModel:
    return cast(PreTrainedModel, causal_lm(model))


def teacher_forced(
    model: nn.Module, rows: Sequence[Encoded], *, batch_size: int | None = None, progress: Progress | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(token log-probabilities, hits) of each row's completion, given the true tokens before it.

    Log-probabilities are float32, or float64 for a float64 model. Rows of equal tokens are computed once, from the
    earliest completion start among them.
    """
    starts: dict[tuple[int, ...], int] = {}
    for row in rows:
        starts[row.ids] = min(row.start, starts.get(row.ids, row.start))
    distinct = sorted(
        (Encoded(ids, start, False, 0) for ids, start in starts.items()), key=lambda r: (-len(r.ids), r.ids)
    )
    found: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    most = batch_size or len(distinct)
    while len(found) < len(distinct):
        first = len(found)
        fitting = max(1, BATCH_TOKENS // len(distinct[first].ids)) if batch_size is None else most
        batch = distinct[first : first + min(most, fitting)]
        try:
            values = _observed(model, batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            most = len(batch) // 2
            continue
        found |= dict(zip((row.ids for row in batch), values, strict=True))
        if progress is not None:
            progress("scoring answers", len(found), len(distinct))
    later = [row.start - starts[row.ids] for row in rows]
    return [(found[r.ids][0][k:], found[r.ids][1][k:]) for r, k in zip(rows, later, strict=True)]


@torch.no_grad()
def _observed(model: nn.Module, rows: Sequence[Encoded]) -> list[tuple[np.ndarray, np.ndarray]]:
    seen = observe(model, {"rows": collate(rows)}, {"rows": frozenset({"token_logprobs", "hits"})})["rows"]
    assert seen.token_logprobs is not None and seen.hits is not None
    logprobs, hits = seen.token_logprobs.cpu().numpy(), seen.hits.cpu().numpy()
    counts = [len(row.ids) - row.start for row in rows]
    return [(logprobs[i, :n], hits[i, :n]) for i, n in enumerate(counts)]


@dataclass(frozen=True)
class _Item:
    """One row of the records to be, before the model has seen it."""

    probe: Probe
    index: int
    number: int
    key: str
    question: str
    completion: str
    row: Encoded
    prompt_ids: tuple[int, ...]
    """What generation starts from: the tokens before the true answer, whichever completion is scored."""

    def as_row(self, logprobs: np.ndarray, hits: np.ndarray, generation: str | None) -> dict[str, Any]:
        return {
            "split": self.probe.split,
            "index": self.index,
            "key": self.key,
            "asked": self.probe.asked,
            "answer": self.probe.answer,
            "number": self.number,
            "prompt": self.question,
            "completion": self.completion,
            "logprobs": logprobs,
            "hits": hits,
            "ended": self.row.ended,
            "generation": generation,
        }


def _items(
    corpus: Corpus,
    probes: Sequence[Probe],
    tokenizer: PreTrainedTokenizerBase,
    template: Template | None,
    max_length: int,
) -> list[_Item]:
    wanted: list[tuple[Probe, int, int, Example, Example]] = []
    for probe in probes:
        reason = lacking(corpus, probe)
        if reason:
            raise ExpungeError(f"cannot collect {probe.name}: {reason}.")
        examples = corpus[probe.split]
        for index in probe.rows(len(examples)):
            truth = _asking(examples[index], probe, examples[index].completion)
            for number, completion in enumerate(completions(examples[index], probe)):
                wanted.append((probe, index, number, _asking(examples[index], probe, completion), truth))
    distinct = list(dict.fromkeys(example for *_, shown, truth in wanted for example in (shown, truth)))
    encoded = dict(zip(distinct, encode(distinct, tokenizer, template=template, max_length=max_length), strict=True))
    items = []
    for probe, index, number, shown, truth in wanted:
        row, completion, prompt_ids = encoded[shown], shown.completion, encoded[truth].prompt_ids
        if probe.answer == "continuation":
            row = _cut(row, probe.max_new_tokens)
            completion, prompt_ids = tokenizer.decode(row.ids[row.start :], skip_special_tokens=True), row.prompt_ids
        key = corpus[probe.split][index].key
        items.append(_Item(probe, index, number, key, shown.question, completion, row, prompt_ids))
    return items


def _asking(example: Example, probe: Probe, completion: str) -> Example:
    prompt = example.paraphrased_prompt if probe.asked == "paraphrased_question" else None
    return example.asking(completion, prompt=prompt)


def _cut(row: Encoded, new_tokens: int) -> Encoded:
    """The row with its completion begun after 50 tokens, or half way through it if that is later or text ends."""
    end = len(row.ids) - row.ended
    half = row.start + (end - row.start) // 2
    start = CUT_AFTER if half <= CUT_AFTER < end else half
    if end - start > new_tokens:
        return Encoded(row.ids[: start + new_tokens], start, False, row.truncated)
    return replace(row, start=start)


def _generations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[_Item],
    batch_size: int | None,
    progress: Progress | None,
) -> dict[int, str]:
    """What the model writes after each prompt, by the item's position; a longer text serves shorter ones."""
    asked = {i: item for i, item in enumerate(items) if item.probe.generate}
    longest: dict[tuple[int, ...], int] = {}
    for item in asked.values():
        longest[item.prompt_ids] = max(item.probe.max_new_tokens, longest.get(item.prompt_ids, 0))
    eos_ids = end_tokens(model, tokenizer, (item.row for item in items))
    said: dict[tuple[int, ...], list[int]] = {}
    for length in sorted(set(longest.values())):
        prompts = [prompt for prompt, n in longest.items() if n == length]

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress("generating answers", done, total)

        new = generate(model, prompts, max_new_tokens=length, eos_ids=eos_ids, batch_size=batch_size, progress=tell)
        said |= dict(zip(prompts, new, strict=True))
    texts = {}
    for i, item in asked.items():
        tokens = said[item.prompt_ids][: item.probe.max_new_tokens]
        texts[i] = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return texts


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
