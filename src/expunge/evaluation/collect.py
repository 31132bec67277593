"""Collect: show a model every answer once and let it answer every prompt once; Records come out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError
from expunge.core.distributed import sharded, share_of
from expunge.core.manifest import Manifest, fingerprint, jsonable
from expunge.core.progress import Progress
from expunge.data.corpus import Corpus, Example, check_corpus
from expunge.data.template import Template, dated
from expunge.data.tokenizing import completion_ends, encode
from expunge.evaluation.partial import Partial
from expunge.evaluation.probe import Probe, completions, lacking, prompt_of
from expunge.evaluation.scoring import Score, Work, gradient_norms, teacher_forced
from expunge.models.anatomy import causal_lm, evaluating
from expunge.models.fingerprint import tokenizer_fingerprint
from expunge.models.generate import continuations, end_tokens
from expunge.models.identity import weights_identity
from expunge.models.load import check_loaded, check_tokenizer_fits
from expunge.models.rows_fit import check_rows_fit
from expunge.results.records import Records

_PARTS = ("continuation", "opening", "sequence")
"""Completions that are a part of the text, decoded from its tokens."""
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
    parts: str | Path | None = None,
    progress: Progress | None = None,
) -> Records:
    """Show a model the answers that the probes name and record what it does.

    Every distinct token row is scored once and every distinct prompt answered once, however many probes ask for it. The
    model is in evaluation mode meanwhile and back in its own afterwards. In a process group the ranks share the
    batches, which are cut as in a single process, and each returns all records; a sharded model (FSDP2) has every rank
    go through all of them.

    Args:
        model: a causal language model, possibly wrapped (PEFT, DDP).
        tokenizer: its tokenizer.
        corpus: where the answers come from.
        probes: what to look at.
        template: how questions are framed.
        max_length: longest row in tokens.
        batch_size: rows computed at once; None: as many as fit a budget of tokens. Halved when the device runs out of
            memory.
        parts: folder in which what is computed is kept meanwhile; a collection of the same content that was killed goes
            on from what is there, but not with a sharded model. The caller removes it once the records are saved.
        progress: called with how far it is.

    Returns:
        Records with a manifest of everything that decides their values.

    Raises:
        ExpungeError: a split or variant that a probe asks for and the corpus lacks, or tokenizer and model that do not
            fit.
    """
    started = time.monotonic()
    check_loaded(model, tokenizer)
    check_corpus(corpus)
    check_tokenizer_fits(_plain(model), tokenizer)
    template = dated(template, tokenizer)
    made = identity(model, tokenizer, corpus, probes, template=template, max_length=max_length)
    items = _items(corpus, probes, tokenizer, template, max_length)
    check_rows_fit(model, (item.row for item in items))
    share = share_of(model)
    content = fingerprint([made.inputs, made.arguments]).replace(":", "-")
    # Ranks of a sharded model must come to the same batches, so none may know parts that another has not seen yet.
    kept = Partial(None if parts is None or sharded(model) else Path(parts) / content, rank=share.rank)
    work = Work(batch_size, kept, share, progress)
    with evaluating(model):
        wanted = [(item.row, item.probe.moments) for item in items]
        scored = teacher_forced(
            model, [row for row, _ in wanted], moments=[moments for _, moments in wanted], work=work
        )
        said = _generations(model, tokenizer, items, scored, work)
        norms = gradient_norms(model, [_body(item.row) for item in items if item.probe.gradients], work=work)
    rows = [
        item.as_row(score, said[i], norms.get(_body(item.row)) if item.probe.gradients else None)
        for i, (item, score) in enumerate(zip(items, scored, strict=True))
    ]
    results = {
        "rows": len(rows),
        "tokens": int(sum(len(score.logprobs) for score in scored)),
        "generations": len({item.prompt_ids for item in items if item.answers}),
        "seconds": round(time.monotonic() - started, 2),
        "batch_size": batch_size,
        "data": corpus.about(*sorted({probe.split for probe in probes})),
        "truncated": sum(item.row.truncated > 0 for item in items),
        "data_notes": list(corpus.notes),
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
    plain, weights = _plain(model), weights_identity(model)
    inputs, asked = data_identity(tokenizer, corpus, probes, template=template, max_length=max_length)
    arguments = {
        **asked,
        "attention": str(plain.config._attn_implementation),
        **{name: value for name, value in weights.items() if name != "model"},
    }
    return Manifest(stage="evaluate", arguments=jsonable(arguments), inputs={"model": weights["model"], **inputs})


def data_identity(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    probes: Sequence[Probe],
    *,
    template: Template | None = None,
    max_length: int = 512,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Inputs and arguments of `identity` that are known without a model: what any model would be asked."""
    splits = sorted({probe.split for probe in probes})
    arguments = {
        "template": dated(template, tokenizer).about,
        "max_length": max_length,
        "probes": [asdict(probe) for probe in sorted(probes, key=lambda p: p.name)],
    }
    inputs = {"tokenizer": tokenizer_fingerprint(tokenizer)}
    inputs |= {f"data.{split}": corpus.fingerprint(split) for split in splits}
    return inputs, jsonable(arguments)


def _plain(model: nn.Module) -> PreTrainedModel:
    return cast(PreTrainedModel, causal_lm(model))


def _body(row: Encoded) -> Encoded:
    """The row without its closing end token, which membership scores leave out."""
    return replace(row, ids=row.ids[:-1], ended=False) if row.ended and len(row.ids) - row.start > 1 else row


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
    ends: tuple[int, ...] | None
    """Where the completion's tokens end in its text."""

    @property
    def answers(self) -> bool:
        """Is its prompt to be continued?"""
        return self.probe.generate and self.probe.answer != "sequence"

    @property
    def from_prefixes(self) -> bool:
        """Is it to be continued from each of its prefixes?"""
        return self.probe.generate and self.probe.answer == "sequence"

    def as_row(self, score: Score, said: "_Said", gradient_norm: float | None) -> dict[str, Any]:
        return {
            "split": self.probe.split,
            "index": self.index,
            "key": self.key,
            "asked": self.probe.asked,
            "answer": self.probe.answer,
            "number": self.number,
            "prompt": self.question,
            "completion": self.completion,
            "logprobs": score.logprobs,
            "hits": score.hits,
            "ended": self.row.ended,
            "generation": said.text,
            "logprob_means": score.means,
            "logprob_variances": score.variances,
            "gradient_norm": gradient_norm,
            "tokens": self.row.ids if self.probe.answer == "sequence" else None,
            "prefix_generations": said.after_misses,
            "ends": self.ends,
        }


@dataclass(frozen=True)
class _Said:
    """What a model wrote for one item."""

    text: str | None = None
    after_misses: list[list[int]] | None = None


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
            for number, completion in enumerate(completions(examples, index, probe)):
                wanted.append((probe, index, number, _asking(examples[index], probe, completion), truth))
    distinct = list(dict.fromkeys(example for *_, shown, truth in wanted for example in (shown, truth)))
    encoded = dict(zip(distinct, encode(distinct, tokenizer, template=template, max_length=max_length), strict=True))
    whole = list(dict.fromkeys(shown for probe, _, _, shown, _ in wanted if probe.answer not in _PARTS))
    rows = [encoded[example] for example in whole]
    ends = dict(zip(whole, completion_ends(whole, rows, tokenizer, template=template), strict=True))
    items = []
    for probe, index, number, shown, truth in wanted:
        row, completion, prompt_ids = encoded[shown], shown.completion, encoded[truth].prompt_ids
        if probe.answer == "continuation":
            row = _cut(row, probe.max_new_tokens)
            completion, prompt_ids = tokenizer.decode(row.ids[row.start :], skip_special_tokens=True), row.prompt_ids
        elif probe.answer == "opening":
            row = _opening(row, probe.max_new_tokens)
            completion = tokenizer.decode(row.ids[row.start :], skip_special_tokens=True)
        elif probe.answer == "sequence":
            row = _sequence(row, probe.max_new_tokens, f"example {index} of {probe.split}")
            completion, prompt_ids = tokenizer.decode(row.ids, skip_special_tokens=True), row.prompt_ids
        key = corpus[probe.split][index].key
        places = None if probe.answer in _PARTS else ends[shown]
        items.append(_Item(probe, index, number, key, shown.question, completion, row, prompt_ids, places))
    return items


def _asking(example: Example, probe: Probe, completion: str) -> Example:
    return example.asking(completion, prompt=prompt_of(example, probe))


def _cut(row: Encoded, new_tokens: int) -> Encoded:
    """The row with its completion begun after 50 tokens, or half way through it if that is later or text ends."""
    end = len(row.ids) - row.ended
    half = row.start + (end - row.start) // 2
    start = CUT_AFTER if half <= CUT_AFTER < end else half
    if end - start > new_tokens:
        return Encoded(row.ids[: start + new_tokens], start, False, row.truncated)
    return replace(row, start=start)


def _opening(row: Encoded, longest: int) -> Encoded:
    """The row with at most so many tokens of its completion."""
    end = row.start + longest
    return row if len(row.ids) - row.ended <= end else Encoded(row.ids[:end], row.start, False, row.truncated)


def _sequence(row: Encoded, longest: int, what: str) -> Encoded:
    """Every token but the first, of the first `longest` of a row without its closing end token."""
    ids = row.ids[: len(row.ids) - row.ended][:longest]
    if len(ids) < 2:
        raise ExpungeError(f"{what} has {len(ids)} tokens, of which none can be predicted; take it out.")
    return Encoded(ids, 1, False, row.truncated)


def _prefixes(item: _Item, score: Score) -> list[tuple[int, ...]]:
    """The tokens before each token that is missed. Where it is hit, the model goes on as from one token later."""
    return [item.row.ids[: item.row.start + i] for i in np.flatnonzero(~score.hits).tolist()]


def _generations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[_Item],
    scores: Sequence[Score],
    work: Work,
) -> list[_Said]:
    """What the model writes for each item; each distinct prompt once, and a longer text serves shorter ones."""
    prefixes = {i: _prefixes(item, scores[i]) for i, item in enumerate(items) if item.from_prefixes}
    wanted: dict[tuple[int, ...], int] = {}
    for item in (item for item in items if item.answers):
        wanted[item.prompt_ids] = max(item.probe.max_new_tokens, wanted.get(item.prompt_ids, 0))
    for i, prompts in prefixes.items():
        for prompt in prompts:
            wanted[prompt] = max(len(items[i].row.ids) - len(prompt), wanted.get(prompt, 0))

    def keep(new: Mapping[tuple[int, ...], list[int]]) -> None:
        work.partial.add("generations", ({"ids": ids, "tokens": tokens} for ids, tokens in new.items()))

    written = continuations(
        model,
        wanted,
        eos_ids=end_tokens(model, tokenizer, (item.row for item in items)),
        batch_size=work.batch_size,
        known={tuple(part["ids"]): part["tokens"] for part in work.partial.read("generations")},
        share=work.share,
        keep=keep,
        progress=work.progress,
    )
    work.partial.flush()
    written = work.share.gathered(written)
    said = []
    for i, item in enumerate(items):
        text = after_misses = None
        if item.answers:
            tokens = written[item.prompt_ids][: item.probe.max_new_tokens]
            text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if i in prefixes:
            after_misses = [written[p][: len(item.row.ids) - len(p)] for p in prefixes[i]]
        said.append(_Said(text, after_misses))
    return said
