"""Generation with a key-value cache: rows of like length together, finished rows dropped as they end."""

import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from expunge.core.batch import Encoded
from expunge.core.checks import ExpungeError, require_at_least, require_positive
from expunge.core.distributed import ALONE, Share
from expunge.core.progress import Progress
from expunge.models.anatomy import causal_lm
from expunge.models.placement import input_device
from expunge.models.rows_fit import most_positions

BATCH_TOKENS = 2**15
"""Prompt and new tokens of one batch: the cache of a model of 8 billion with grouped heads takes 4 GB for them."""


Prompt = tuple[int, ...]
Pick = Callable[[Tensor], Tensor]
"""Chooses the next token of each row: logits [B, V] to token ids [B]."""


def most_probable(logits: Tensor) -> Tensor:
    """The most probable token of each row."""
    return logits.argmax(-1)


def sampler(*, temperature: float, seed: int, device: torch.device) -> Pick:
    """Draws tokens from softmax(logits / temperature); the same seed and batches give the same draws."""
    require_positive("temperature", temperature)
    generator = torch.Generator(device).manual_seed(seed)

    def pick(logits: Tensor) -> Tensor:
        return torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)[:, 0]

    return pick


def end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Encoded]) -> set[int]:
    """What ends an answer: end tokens of tokenizer and generation settings, and those that close the true answers."""
    found = {row.ids[-1] for row in rows if row.ended}
    settings = getattr(getattr(causal_lm(model), "generation_config", None), "eos_token_id", None)
    for ids in (tokenizer.eos_token_id, settings):
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    return found


def greedy(
    model: nn.Module,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    batch_size: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Continue prompts with the most probable token, one after the other; `continuations` says how.

    Args:
        model: a causal language model; used in the mode (training or evaluation) that it is in.
        prompts: token ids, none empty.
        max_new_tokens: longest continuation.
        eos_ids: tokens that end a continuation; they are not part of it.
        batch_size: most prompts computed at once; None: as many as `batch_tokens` holds.
        batch_tokens: budget of a batch, in tokens of prompt and continuation.
        progress: called with (what, prompts done, prompts in all, numbers) after each batch.

    Returns:
        The new tokens of each prompt, in the order of `prompts`.

    Raises:
        ExpungeError: an empty prompt, or one that leaves no position for a new token.
    """
    wanted = dict.fromkeys(prompts, max_new_tokens)
    found = continuations(
        model, wanted, eos_ids=eos_ids, batch_size=batch_size, batch_tokens=batch_tokens, progress=progress
    )
    return [found[prompt] for prompt in prompts]


@torch.no_grad()
def continuations(
    model: nn.Module,
    wanted: Mapping[Prompt, int],
    *,
    eos_ids: Collection[int],
    pick: Pick = most_probable,
    batch_size: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    known: Mapping[Prompt, list[int]] | None = None,
    share: Share = ALONE,
    keep: Callable[[Mapping[Prompt, list[int]]], None] | None = None,
    progress: Progress | None = None,
) -> dict[Prompt, list[int]]:
    """Continue each distinct prompt, greedily unless `pick` says otherwise, by at most its own number of new tokens.

    Prompts are sorted by length, so that padding is small, padded on the left and given explicit positions; a row
    leaves the batch when it ends. How prompts are cut into batches depends on `wanted` and the two sizes alone, so
    that work that is shared, or was done before, gives the very same numbers. Batches change rounding only, never which
    tokens compete. When the device runs out of memory the batch is halved and the work goes on. Models that cannot
    compute so, such as those whose cache is no key-value cache, generate one row at a time through transformers'
    `generate`, which is slower.

    Args:
        model: a causal language model; used in the mode (training or evaluation) that it is in.
        wanted: prompts, none empty, and how many new tokens each may have.
        eos_ids: tokens that end a continuation; they are not part of it.
        pick: chooses the next tokens.
        batch_size: most prompts computed at once; None: as many as `batch_tokens` holds.
        batch_tokens: budget of a batch, in tokens of prompt and continuation.
        known: continuations found before; batches of which all are known are not computed again.
        share: which batches are computed here.
        keep: called with the continuations of each batch once they are there.
        progress: called with (what, prompts done, prompts in all, numbers) after each batch, those of this share.

    Returns:
        The new tokens of each prompt that is known or belongs to this share.

    Raises:
        ExpungeError: an empty prompt, or one that leaves no position for a new token.
    """
    for tokens in wanted.values():
        require_at_least("max_new_tokens", tokens, 1)
    inner = causal_lm(model)
    limit = _most_tokens(inner)
    distinct = sorted(wanted, key=lambda p: (-len(p), p))  # longest first: too little memory shows at once
    _check_prompts(distinct, limit)
    found = {prompt: tokens for prompt, tokens in (known or {}).items() if prompt in wanted}
    together = not distinct or _computes_together(inner, distinct[0])
    mine = share.mine(_batches(distinct, wanted, batch_size, batch_tokens))
    total, done, cut, most = sum(map(len, mine)), 0, 0, len(distinct)
    for batch in mine:
        while left := [prompt for prompt in batch if prompt not in found]:
            some = left[: most if together else 1]
            try:
                how = _generate if together else _generate_alone
                generated = how(inner, some, [wanted[p] for p in some], frozenset(eos_ids), limit, pick)
            except torch.OutOfMemoryError:
                if len(some) == 1:
                    raise
                most = len(some) // 2
                continue
            new = {prompt: tokens for prompt, (tokens, _) in zip(some, generated, strict=True)}
            found |= new
            cut += sum(at_limit for _, at_limit in generated)
            if keep is not None:
                keep(new)
            if progress is not None:
                progress("generating answers", done + len(batch) - len(left) + len(some), total, "")
        done += len(batch)
    if cut:
        warnings.warn(
            f"{cut} of {len(distinct)} generations stopped before max_new_tokens={max(wanted.values())}: the model has "
            f"positions for {limit} tokens only.",
            stacklevel=3,
        )
    return found


@torch.no_grad()
def stream(
    model: nn.Module,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    pick: Pick = most_probable,
) -> Iterator[dict[int, int]]:
    """Continue prompts together, one token at a time, for readers who watch; `continuations` says how.

    All prompts are one batch, and equal ones are continued each for itself. A model that must generate one row at a
    time shows each row once it is complete.

    Args:
        model: a causal language model; used in the mode (training or evaluation) that it is in.
        prompts: token ids, none empty.
        max_new_tokens: longest continuation.
        eos_ids: tokens that end a continuation.
        pick: chooses the next tokens.

    Yields:
        By row, the token that it has just been given; an end token is the last of its row.

    Raises:
        ExpungeError: an empty prompt, or one that leaves no position for a new token.
    """
    require_at_least("max_new_tokens", max_new_tokens, 1)
    inner = causal_lm(model)
    limit = _most_tokens(inner)
    _check_prompts(prompts, limit)
    if not prompts:
        return
    if _computes_together(inner, max(prompts, key=len)):
        yield from _steps(inner, prompts, [max_new_tokens] * len(prompts), frozenset(eos_ids), limit, pick)
        return
    for row, prompt in enumerate(prompts):
        longest = max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt) + 1)
        for token in _own_way(inner, prompt, longest, eos_ids, _Picked(pick)):
            yield {row: token}


def _check_prompts(prompts: Sequence[Prompt], limit: int | None) -> None:
    lengths = [len(prompt) for prompt in prompts]
    if 0 in lengths:
        raise ExpungeError(
            "a prompt without tokens cannot be continued; begin it with the tokenizer's beginning token."
        )
    if limit is not None and max(lengths, default=0) > limit:
        raise ExpungeError(f"a prompt has {max(lengths)} tokens, and the model has positions for {limit}.")


def _batches(
    distinct: Sequence[Prompt], wanted: Mapping[Prompt, int], batch_size: int | None, batch_tokens: int
) -> list[list[Prompt]]:
    """Sorted prompts cut into batches: of `batch_size`, or such that prompts and new tokens keep within a budget."""
    batches: list[list[Prompt]] = []
    widest = 0  # of the batch that is being filled
    for prompt in distinct:
        widest = max(widest, len(prompt) + wanted[prompt])
        size = len(batches[-1]) if batches else 0
        fits = size < batch_size if batch_size is not None else (size + 1) * widest <= batch_tokens
        if size and fits:
            batches[-1].append(prompt)
        else:
            batches.append([prompt])
            widest = len(prompt) + wanted[prompt]
    return batches


def _generate(
    inner: nn.Module,
    batch: Sequence[Prompt],
    most: Sequence[int],
    eos_ids: frozenset[int],
    limit: int | None,
    pick: Pick,
) -> list[tuple[list[int], bool]]:
    """The new tokens of each row, and whether it ended because the model has no more positions."""
    new: list[list[int]] = [[] for _ in batch]
    for step in _steps(inner, batch, most, eos_ids, limit, pick):
        for row, token in step.items():
            new[row].append(token)
    return [_finished(tokens, wanted, eos_ids) for tokens, wanted in zip(new, most, strict=True)]


def _finished(tokens: list[int], wanted: int, eos_ids: Collection[int]) -> tuple[list[int], bool]:
    """A row without its end token, and whether it stopped for want of positions."""
    ended = bool(tokens) and tokens[-1] in eos_ids
    return (tokens[:-1] if ended else tokens), not ended and len(tokens) < wanted


def _steps(
    inner: nn.Module,
    batch: Sequence[Prompt],
    most: Sequence[int],
    eos_ids: frozenset[int],
    limit: int | None,
    pick: Pick,
) -> Iterator[dict[int, int]]:
    """The next token of each row that still goes on, its end token included."""
    device = input_device(inner)
    ids, mask, positions = _padded(batch, device)
    padded = bool((mask == 0).any())
    cache = DynamicCache(config=inner.config)  # type: ignore[arg-type]
    computed = list(range(len(batch)))  # which prompt each computed row belongs to
    live = set(computed)
    for made in range(1, max(most) + 1):
        logits = inner(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = pick(logits)
        step = {row: token for row, token in zip(computed, tokens.tolist(), strict=True) if row in live}
        yield step
        for row, token in step.items():
            full = limit is not None and len(batch[row]) + made > limit  # nowhere to put the token just made
            if token in eos_ids or made == most[row] or full:
                live.remove(row)
        if not live:
            return
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if len(live) < len(computed) and _can_drop_rows(cache):
            kept = torch.tensor([j for j, row in enumerate(computed) if row in live], device=device)
            cache.batch_select_indices(kept)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            computed = [computed[j] for j in kept.tolist()]
        elif limit is not None:
            positions = positions.clamp(max=limit - 1)  # ended rows that stay in the batch compute on, unheard


def _most_tokens(inner: nn.Module) -> int | None:
    """How many tokens prompt and continuation may have together; None: any number."""
    config = inner.config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    limits = (getattr(config, "max_position_embeddings", None), most_positions(inner)[0])
    return min((limit for limit in limits if limit is not None), default=None)


class _Picked(LogitsProcessor):
    """Leaves the picked token alone to be chosen, and keeps the logits that it was picked by."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores.detach().clone())
        tokens = self.pick(scores)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def _generate_alone(
    inner: nn.Module,
    batch: Sequence[Prompt],
    most: Sequence[int],
    eos_ids: frozenset[int],
    limit: int | None,
    pick: Pick,
) -> list[tuple[list[int], bool]]:
    """As `_generate`, one row after the other through the model's own `generate`, free of its generation settings."""
    found = []
    for prompt, wanted in zip(batch, most, strict=True):
        longest = wanted if limit is None else min(wanted, limit - len(prompt) + 1)
        found.append(_finished(_own_way(inner, prompt, longest, eos_ids, _Picked(pick)), wanted, eos_ids))
    return found


def _own_way(inner: nn.Module, prompt: Prompt, longest: int, eos_ids: Collection[int], picked: _Picked) -> list[int]:
    ids = torch.tensor([prompt], device=input_device(inner))
    holder: Any = inner
    settings, holder.generation_config = holder.generation_config, GenerationConfig(pad_token_id=0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what transformers thinks of settings that are given here
            whole = holder.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=longest,
                eos_token_id=sorted(eos_ids) or None,
                logits_processor=LogitsProcessorList([picked]),
            )
    finally:
        holder.generation_config = settings
    return whole[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


_together: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()
_TRIED = (21, 9)
"""Tokens of the two prompts on which both ways are tried."""
_STEPS = 5
_ROUNDING = 0.05
"""How far logits may be apart, relative to their spread: more than bfloat16 rounds, less than an error."""


def _computes_together(inner: nn.Module, prompt: Prompt) -> bool:
    """Does a padded batch with a key-value cache show the logits of the model's own `generate`?

    Tried once on parts of a prompt. A sharded model, whose processes would have to try it together, is taken to.
    """
    if inner not in _together:
        _together[inner] = isinstance(next(inner.parameters()), DTensor) or _tried(inner, prompt)
    return _together[inner]


def _tried(inner: nn.Module, prompt: Prompt) -> bool:
    limit = _most_tokens(inner)
    tokens = prompt * max(_TRIED)
    lengths = [n if limit is None else max(1, min(n, limit - _STEPS)) for n in _TRIED]
    prompts = [tokens[-n:] for n in lengths]
    was_training = inner.training
    inner.eval()
    try:
        theirs = []
        for one in prompts:
            picked = _Picked(most_probable)
            _own_way(inner, one, _STEPS, (), picked)
            theirs.append(torch.cat(picked.seen).float())
        ours: list[Tensor] = []

        def pick(logits: Tensor) -> Tensor:
            ours.append(logits.float())
            return torch.stack([of_row[len(ours) - 1].argmax() for of_row in theirs])

        try:
            _generate(inner, prompts, [_STEPS] * len(prompts), frozenset(), None, pick)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model that does not take what is passed may fail in any way
            return False
    finally:
        inner.train(was_training)
    expected, found = torch.stack(theirs), torch.stack(ours, 1)
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    return bool(((found - expected).norm(dim=-1) <= _ROUNDING * spread + 1e-6).all())


def _can_drop_rows(cache: DynamicCache) -> bool:
    return all(hasattr(layer, "batch_select_indices") for layer in cache.layers)


def _padded(batch: Sequence[Prompt], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(prompt) for prompt in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)
