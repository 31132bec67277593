"""Collect: show a model every answer once and let it answer every prompt once; Records come out."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.core.checks import ExpungeError
from expunge.core.manifest import Manifest, fingerprint, jsonable
from expunge.core.records import Records
from expunge.core.rows import Encoded, collate
from expunge.data.corpus import Corpus, Example
from expunge.data.template import Template
from expunge.data.tokenizing import encode
from expunge.evaluation.parts import Parts
from expunge.evaluation.probe import Probe, completions, lacking
from expunge.evaluation.ranks import share_of, united
from expunge.models.anatomy import causal_lm
from expunge.models.generate import continuations, end_tokens
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
            on from what lies there. The caller removes it once the records are saved.
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
    share = share_of(model)
    content = fingerprint([made.inputs, made.arguments]).replace(":", "-")
    kept = Parts(None if parts is None else Path(parts) / content, rank=share[0])
    work = Work(batch_size, kept, share, progress)
    with _evaluating(model):
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


@dataclass(frozen=True)
class Work:
    """How a collection goes about its work."""

    batch_size: int | None = None
    parts: Parts = field(default_factory=lambda: Parts(None))
    share: tuple[int, int] = (0, 1)
    """(this rank, ranks)."""
    progress: Progress | None = None

    def tell(self, what: str) -> Callable[[int, int], None]:
        """Progress of one kind of work."""

        def told(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(what, done, total)

        return told


class Score(NamedTuple):
    """What a model says to each token of one completion, C of them, given the true tokens before it."""

    logprobs: Float[np.ndarray, " c"]
    """log p of the token; float32, or float64 for a float64 model."""
    hits: Bool[np.ndarray, " c"]
    """Is it the most probable one?"""
    means: Float[np.ndarray, " c"] | None = None
    """Mean of log p over the vocabulary under p, where it was asked for."""
    variances: Float[np.ndarray, " c"] | None = None
    """Its variance."""

    def after(self, k: int) -> "Score":
        """Without the first k tokens."""
        return Score(*(None if values is None else values[k:] for values in self))  # type: ignore[arg-type]


def teacher_forced(
    model: nn.Module,
    rows: Sequence[Encoded],
    *,
    moments: Sequence[bool] | None = None,
    work: Work | None = None,
) -> list[Score]:
    """What a model says to each row's completion, given the true tokens before each.

    Rows of equal tokens are computed once, from the earliest completion start among them.

    Args:
        model: a causal language model.
        rows: token rows.
        moments: for which of them to have mean and variance of the log-probabilities too; None: for none.
        work: batch size, share of this rank, parts.
    """
    work, asked = work or Work(), moments or [False] * len(rows)
    starts: dict[tuple[int, ...], int] = {}
    with_moments: set[tuple[int, ...]] = set()
    for row, wanted in zip(rows, asked, strict=True):
        starts[row.ids] = min(row.start, starts.get(row.ids, row.start))
        with_moments |= {row.ids} if wanted else set()
    distinct = sorted(
        (Encoded(ids, start, False, 0) for ids, start in starts.items()), key=lambda r: (-len(r.ids), r.ids)
    )
    found = {tuple(part["ids"]): _score_from(part) for part in work.parts.read("scores")}
    mine = _batches(distinct, work.batch_size)[work.share[0] :: work.share[1]]
    total, done, most, tell = sum(map(len, mine)), 0, len(distinct), work.tell("scoring answers")
    for batch in mine:
        while left := [row for row in batch if row.ids not in found]:
            some = left[:most]
            try:
                scores = _observed(model, some, with_moments)
            except torch.OutOfMemoryError:
                if len(some) == 1:
                    raise
                most = len(some) // 2
                continue
            found |= dict(zip((row.ids for row in some), scores, strict=True))
            work.parts.add("scores", (_part_of(row, score) for row, score in zip(some, scores, strict=True)))
            tell(done + len(batch) - len(left) + len(some), total)
        done += len(batch)
    work.parts.flush()
    found = united(found, work.share[1])
    return [found[row.ids].after(row.start - starts[row.ids]) for row in rows]


def _batches(distinct: Sequence[Encoded], batch_size: int | None) -> list[Sequence[Encoded]]:
    """Rows sorted by length, longest first, cut into batches: of `batch_size`, or within the budget of tokens."""
    batches, at = [], 0
    while at < len(distinct):
        size = batch_size or max(1, BATCH_TOKENS // len(distinct[at].ids))
        batches.append(distinct[at : at + size])
        at += size
    return batches


_SCORED = frozenset({"token_logprobs", "hits"})


@torch.no_grad()
def _observed(
    model: nn.Module, rows: Sequence[Encoded], with_moments: Collection[tuple[int, ...]] = frozenset()
) -> list[Score]:
    # Rows whose moments are wanted are a stream of their own: one pass, and no moments for the others. The wrapper of
    # DDP is taken off: it would exchange buffers at each pass, and ranks may have unequal numbers of batches.
    streams = {True: [r for r in rows if r.ids in with_moments], False: [r for r in rows if r.ids not in with_moments]}
    held = {str(wanted): part for wanted, part in streams.items() if part}
    needs = {name: _SCORED | ({"moments"} if name == "True" else set()) for name in held}
    seen = observe(causal_lm(model), {name: collate(part) for name, part in held.items()}, needs)
    found: dict[tuple[int, ...], Score] = {}
    for name, part in held.items():
        observed = seen[name]
        assert observed.token_logprobs is not None and observed.hits is not None
        columns = [observed.token_logprobs.cpu().numpy(), observed.hits.cpu().numpy()]
        if observed.moments is not None:
            columns += [observed.moments[..., k].cpu().numpy() for k in (0, 1)]
        for i, row in enumerate(part):
            found[row.ids] = Score(*(column[i, : len(row.ids) - row.start] for column in columns))
    return [found[row.ids] for row in rows]


def _part_of(row: Encoded, score: Score) -> dict[str, Any]:
    return {"ids": row.ids, "start": row.start, **score._asdict()}


def _score_from(part: dict[str, Any]) -> Score:
    means, variances = (None if part[k] is None else np.array(part[k]) for k in ("means", "variances"))
    return Score(np.array(part["logprobs"]), np.array(part["hits"], dtype=np.bool_), means, variances)


def _body(row: Encoded) -> Encoded:
    """The row without its closing end token, which membership scores leave out."""
    return replace(row, ids=row.ids[:-1], ended=False) if row.ended and len(row.ids) - row.start > 1 else row


def gradient_norms(model: nn.Module, rows: Sequence[Encoded], *, work: Work | None = None) -> dict[Encoded, float]:
    """Mean over parameter tensors of the 2-norm of the gradient of each row's mean token loss, one row at a time.

    Every parameter that the loss reaches counts, frozen ones too. No gradient is left on the model.

    Source: `grad_norm` of open-unlearning, arXiv:2506.12618.
    """
    work, inner = work or Work(), causal_lm(model)
    distinct = sorted(dict.fromkeys(rows), key=lambda r: (-len(r.ids), r.ids, r.start))
    known = {(tuple(part["ids"]), part["start"]): part["norm"] for part in work.parts.read("gradients")}
    found = {row: known[row.ids, row.start] for row in distinct if (row.ids, row.start) in known}
    mine, tell = distinct[work.share[0] :: work.share[1]], work.tell("gradient norms")
    for done, row in enumerate(mine, start=1):
        if row not in found:
            found[row] = _gradient_norm(inner, row)
            work.parts.add("gradients", [{"ids": row.ids, "start": row.start, "norm": found[row]}])
        tell(done, len(mine))
    work.parts.flush()
    return united(found, work.share[1])


def _gradient_norm(inner: nn.Module, row: Encoded) -> float:
    frozen = [p for p in inner.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            seen = observe(inner, {"row": collate([row])}, {"row": frozenset({"token_logprobs"})})["row"]
            assert seen.token_logprobs is not None
            reached = [p for p in inner.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(-seen.token_logprobs.mean(), reached, allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return float(np.mean([g.float().norm().item() for g in gradients if g is not None]))


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
        elif probe.answer == "opening":
            row = _opening(row, probe.max_new_tokens)
            completion = tokenizer.decode(row.ids[row.start :], skip_special_tokens=True)
        elif probe.answer == "sequence":
            row = _sequence(row, probe.max_new_tokens, f"example {index} of {probe.split}")
            completion, prompt_ids = tokenizer.decode(row.ids, skip_special_tokens=True), row.prompt_ids
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
        work.parts.add("generations", ({"ids": ids, "tokens": tokens} for ids, tokens in new.items()))

    written = continuations(
        model,
        wanted,
        eos_ids=end_tokens(model, tokenizer, (item.row for item in items)),
        batch_size=work.batch_size,
        known={tuple(part["ids"]): part["tokens"] for part in work.parts.read("generations")},
        share=work.share,
        keep=keep,
        progress=work.tell("generating answers"),
    )
    work.parts.flush()
    written = united(written, work.share[1])
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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
